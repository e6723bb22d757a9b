"""``python -m benchmarks NAME...``: run measurements and print their tables."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

NAMES = (
    "bringup", "throughput", "paths", "services", "balancing", "policies", "ingress", "failover", "connections",
    "memory", "dns",
)  # fmt: skip


_RUN = Path("/run")
_INSIDE = "KMN_BENCHMARKS_RUN_IN_MEMORY"


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks", description="Measure kmn beside its peers, in one run.")
    parser.add_argument("names", nargs="+", choices=[*NAMES, "all"], help="which measurements")
    parser.add_argument("--quick", action="store_true", help="a tenth of the size: to see that it works")
    parser.add_argument("--json", type=Path, help="append the figures to this file, a line a table")
    args = parser.parse_args()
    if os.geteuid() != 0:
        print("benchmarks make network namespaces: run them as root (sudo ./kmn.sh bench ...)", file=sys.stderr)
        return 1
    if _on_disk(_RUN) and _INSIDE not in os.environ:
        _start_with_run_in_memory()
    for name in NAMES if "all" in args.names else args.names:
        importlib.import_module(f"benchmarks.{name}").main(quick=args.quick, json_file=args.json)
    return 0


def _on_disk(folder: Path) -> bool:
    """Whether files there are not a ``tmpfs``'s."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=True).stdout
    return kind.strip() != "tmpfs"


def _start_with_run_in_memory() -> NoReturn:
    """Start again with ``/run`` as systems have it that boot with systemd: in memory.

    A new pod is some small files there. On a disk they are made as fast as its file system happens to be: ext4 without
    a journal passes over what was deleted in the last minute, so that each round would be slower than the one before.
    """
    print("/run is on a disk: measuring with one in memory, in a mount namespace of its own", file=sys.stderr)
    script = 'mount -t tmpfs -o mode=755 tmpfs /run && mount -t tmpfs tmpfs /etc/netns && exec "$@"'
    Path("/etc/netns").mkdir(exist_ok=True)
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
    command += [sys.executable, "-m", "benchmarks", *sys.argv[1:]]
    os.execvpe(command[0], command, {**os.environ, _INSIDE: "1"})


if __name__ == "__main__":
    sys.exit(main())
