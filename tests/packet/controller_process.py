"""The controller as a process of its own, with os-ken and its listeners, and objects from standard input.

Each line in is ``{"list": resource, "items": [...], "version": "1"}`` or ``{"event": "MODIFIED", "resource": ...,
"object": {...}}``; each line out is a report, with counters.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from pathlib import Path

from controller import app
from controller.census import Census
from controller.listener import Listeners
from controller.megaflows import Purger
from controller.report import Report
from controller.sync import Synchronizer

RESOURCES = ("nodes", "pods", "services", "endpointslices", "edges", "clusters")


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    sys.setswitchinterval(0.0005)

    def report(news: Report) -> None:
        counters = synchronizer.counters
        print(json.dumps({**news.status(), "messages": counters.messages, "reads": counters.reads}), flush=True)

    synchronizer = Synchronizer(
        RESOURCES,
        report,
        lambda bridges: listeners.want({name: bridge.netns for name, bridge in bridges.items()}),
        purge=Purger(lambda bridge: Path(sys.argv[1]) / bridge).purge,
        count=Census(lambda bridge: Path(sys.argv[1]) / bridge).count,
    )
    app.start(synchronizer)
    listeners = Listeners(app.serve, synchronizer.listening)
    listeners.start()
    threading.Thread(target=synchronizer.run, daemon=True).start()
    for line in sys.stdin:
        item = json.loads(line)
        if "list" in item:
            synchronizer.listed(item["list"], item["items"], item["version"])
        else:
            synchronizer.event(item["resource"], item["event"], item["object"])
    os._exit(0)


if __name__ == "__main__":
    main()
