"""``python -m benchmarks NAME...``: run measurements and print their tables."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

NAMES = ("bringup", "throughput", "paths", "services", "failover", "connections", "memory", "dns")


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks", description="Measure kmn beside its peers, in one run.")
    parser.add_argument("names", nargs="+", choices=[*NAMES, "all"], help="which measurements")
    parser.add_argument("--quick", action="store_true", help="a tenth of the size: to see that it works")
    parser.add_argument("--json", type=Path, help="append the figures to this file, a line a table")
    args = parser.parse_args()
    if os.geteuid() != 0:
        print("benchmarks make network namespaces: run them as root (sudo ./kmn.sh bench ...)", file=sys.stderr)
        return 1
    for name in NAMES if "all" in args.names else args.names:
        importlib.import_module(f"benchmarks.{name}").main(quick=args.quick, json_file=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
