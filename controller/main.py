"""``kmn-controller``: follows the API, and programs the bridges of all nodes and the edge.

kmn-controller --kubeconfig PATH [--log-file PATH] [--verbose]
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from controller import app
from controller.census import Census
from controller.cluster import Bridge
from controller.listener import Listeners
from controller.megaflows import Purger
from controller.report import Reporter
from controller.sync import Synchronizer
from kmn import garbage
from kmn.k8s import resources
from kmn.k8s.reflector import Reflector
from kmn.k8s.rest import RestClient

__all__ = ["main"]

LOG = logging.getLogger(__name__)

_FOLLOWED = (
    resources.NODES,
    resources.PODS,
    resources.SERVICES,
    resources.ENDPOINTSLICES,
    resources.EDGES,
    resources.APPLICATIONLOADBALANCERS,
    resources.NAMESPACES,  # for policies and egress addresses
    *resources.POLICIES,
    resources.CLUSTERS,  # for the network of virtual addresses
)
# Threads hand over to each other several times per change; the default interval (5 ms) is longer than a change takes.
_SWITCH_INTERVAL = 0.0005


def main(arguments: list[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT. The bridges keep their flows."""
    options = _options(arguments)
    _log_to(options.log_file, options.verbose)
    sys.setswitchinterval(_SWITCH_INTERVAL)
    garbage.spread()
    client = RestClient.from_kubeconfig(options.kubeconfig)
    _end_on_signals()
    reporter = Reporter(client)

    switches: Path = options.switches
    synchronizer = Synchronizer(
        [resource.plural for resource in _FOLLOWED],
        reporter.submit,
        lambda bridges: listeners.want(_namespaces(bridges)),
        purge=Purger(switches.joinpath).purge,
        count=Census(switches.joinpath).count,
    )
    app.start(synchronizer)
    listeners = Listeners(app.serve, synchronizer.listening)
    listeners.start()
    reporter.start()
    for resource in _FOLLOWED:
        _reflect(client, resource, synchronizer)
    threading.Thread(target=_run, args=(synchronizer,), name="synchronizer", daemon=True).start()
    while True:
        signal.pause()


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="kmn-controller", description="Programs the bridges of a kmn cluster.")
    parser.add_argument("--kubeconfig", required=True, type=Path, help="how to reach the cluster's API server")
    parser.add_argument("--switches", required=True, type=Path, help="folder of the bridges' run directories, by name")
    parser.add_argument("--log-file", type=Path, help="write the log there rather than to standard error")
    parser.add_argument("--verbose", action="store_true", help="log what is sent to the bridges")
    return parser.parse_args(arguments)


def _log_to(path: Path | None, verbose: bool) -> None:
    logging.basicConfig(
        filename=path,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("controller").setLevel(logging.DEBUG if verbose else logging.INFO)
    logging.getLogger("os_ken").setLevel(logging.WARNING)


def _end_on_signals() -> None:
    def end(number: int, frame: FrameType | None) -> None:
        # os-ken's threads are no daemons and cannot be ended; the bridges keep what they have.
        LOG.info("ending on %s", signal.Signals(number).name)
        logging.shutdown()
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)


def _reflect(client: RestClient, resource: resources.Resource, synchronizer: Synchronizer) -> None:
    name = resource.plural
    Reflector(
        client,
        resource,
        lambda listing: synchronizer.listed(name, listing.items, listing.resource_version),
        lambda event: synchronizer.event(name, event.type, event.object),
    ).start()


def _namespaces(bridges: dict[str, Bridge]) -> dict[str, str]:
    return {name: bridge.netns for name, bridge in bridges.items()}


def _run(synchronizer: Synchronizer) -> None:
    try:
        synchronizer.run()
    except BaseException:
        # Without this thread nothing is programmed any more: end, so that whoever supervises starts a new one.
        LOG.exception("the synchroniser failed")
        logging.shutdown()
        os._exit(1)


if __name__ == "__main__":
    main()
