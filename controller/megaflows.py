"""Making a switch forget what it derived from flows that have changed.

Open vSwitch goes through its megaflows some milliseconds after a change: until then packets go the old way, although
the change is confirmed. And it keeps a megaflow as long as it is used, and gives it new actions where its flows have
changed. In the userspace datapath (3.1; ``flow_put_on_pmd`` in lib/dpif-netdev.c) it looks for the megaflow to change
by a packet that it was made for, and may find another one, with another mask, that the packet matches, too: the first
then keeps its old actions for good. So after a change all megaflows go, before it counts as in force; the next packet
of each makes it anew.
"""

from __future__ import annotations

import json
import logging
import socket
from pathlib import Path

__all__ = ["purge"]

LOG = logging.getLogger(__name__)

_TIMEOUT = 10.0  # seconds; it takes a few milliseconds


def purge(run_dir: Path) -> None:
    """Ask the ``ovs-vswitchd`` of a run directory (``ovs-appctl revalidator/purge``). One that is gone has none."""
    try:
        pid = int((run_dir / "ovs-vswitchd.pid").read_text())
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_TIMEOUT)
            connection.connect(str(run_dir / f"ovs-vswitchd.{pid}.ctl"))
            connection.sendall(json.dumps({"id": 0, "method": "revalidator/purge", "params": []}).encode())
            answer = json.loads(connection.makefile("rb").read1())
        if answer.get("error"):
            LOG.error("%s: revalidator/purge: %s", run_dir, answer["error"])
    except (OSError, ValueError) as error:
        LOG.warning("%s: revalidator/purge: %s", run_dir, error)
