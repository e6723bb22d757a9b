"""``python -m kmn.dns --kubeconfig PATH``: the DNS process of a cluster. Serves all pods that carry the annotation."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import signal
import sys
from pathlib import Path

import uvloop

from kmn.dns.config import DnsConfig
from kmn.dns.internet import HostServers
from kmn.dns.placement import Placement
from kmn.dns.responder import Responder
from kmn.dns.zone import Zone
from kmn.k8s.errors import ApiError
from kmn.k8s.feed import Feed
from kmn.k8s.objects import Key, Object
from kmn.k8s.resources import CLUSTERS, EDGES, PODS, Resource
from kmn.k8s.rest import RestClient

__all__ = ["main"]

log = logging.getLogger("kmn.dns")


def read_config(client: RestClient) -> DnsConfig:
    """What the API's one Cluster says. Raises ApiError, ValueError."""
    clusters = client.list(CLUSTERS).items
    if len(clusters) != 1:
        raise ValueError(f"{len(clusters)} Cluster objects in the API: exactly one is expected")
    return DnsConfig.from_cluster(clusters[0])


async def serve(client: RestClient, config: DnsConfig) -> None:
    """Answer until SIGTERM or SIGINT."""
    zone = Zone(config)
    placement = Placement(Responder(zone))

    def apply(resource: Resource, key: Key, obj: Object | None) -> None:
        zone.update(resource, key, obj)
        if resource is PODS:
            placement.update(key, obj)

    feed = Feed(client, Zone.resources, apply)
    hosts = HostServers()  # the internet's DNS, which knows nothing of the cluster
    outside = Feed(client, (EDGES,), hosts.update)
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    ending = asyncio.create_task(told.wait())
    feed.start()
    outside.start()
    serving_outside = asyncio.create_task(hosts.run())
    # Until everything is known, a closed port is better than a wrong NXDOMAIN.
    await asyncio.wait({ending, asyncio.create_task(feed.synced.wait())}, return_when=asyncio.FIRST_COMPLETED)
    gc.freeze()  # ten thousand Services' objects need not be walked again and again for the garbage of the answers
    serving = asyncio.create_task(placement.run())
    await asyncio.wait({ending, serving, serving_outside}, return_when=asyncio.FIRST_COMPLETED)
    feed.stop()
    outside.stop()
    for task in (serving, serving_outside):
        if task.done():
            task.result()  # raises what ended it
        task.cancel()
    await asyncio.gather(serving, serving_outside, return_exceptions=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="kmn.dns", description="The DNS server of one cluster.")
    parser.add_argument("--kubeconfig", type=Path, required=True, help="how to reach the cluster's API")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        client = RestClient.from_kubeconfig(args.kubeconfig)
        config = read_config(client)
    except (ApiError, OSError, ValueError) as error:
        log.error("%s", error)
        return 1
    uvloop.run(serve(client, config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
