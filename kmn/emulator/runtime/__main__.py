"""``python -m kmn.emulator.runtime --socket PATH --cluster NAME``: started, and restarted, by the cluster's daemon."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import resource
import signal
from pathlib import Path

import uvloop

from kmn.emulator.runtime.server import Server
from kmn.naming import CLUSTER_VARIABLE

log = logging.getLogger("kmn.runtime")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="kmn.emulator.runtime", description="Emulated containers of one cluster.")
    parser.add_argument("--socket", type=Path, required=True, help="Unix socket to serve the kubelet on")
    parser.add_argument("--cluster", required=True, help="name of the cluster")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if os.environ.get(CLUSTER_VARIABLE) != args.cluster:
        parser.error(
            f"the environment must have {CLUSTER_VARIABLE}={args.cluster}: by it `kmn clean` finds this process"
        )
    _allow_many_files()
    gc.freeze()  # what is loaded by now stays: the collector need not look at it again
    uvloop.run(_run(args.socket))
    args.socket.unlink(missing_ok=True)


async def _run(path: Path) -> None:
    serving = asyncio.create_task(Server(path).run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
    try:
        await serving
    except asyncio.CancelledError:
        log.info("told to end")


def _allow_many_files() -> None:
    """A socket a port and one a connection: as many as we may have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = int(Path("/proc/sys/fs/nr_open").read_text())
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except ValueError:  # only who has CAP_SYS_RESOURCE may raise the hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    log.info("at most %d open files", resource.getrlimit(resource.RLIMIT_NOFILE)[0])


if __name__ == "__main__":
    main()
