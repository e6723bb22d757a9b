"""Commands that print what happens, while they run: their lines, and what they note beside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from clusterlab import eventually
from faultlab import ROOT

from kmn import Cluster

__all__ = ["Log", "log_of"]


class Log:
    """``kmn policy log`` (or another command for it) while it runs."""

    def __init__(self, cluster: str, *options: str, command: Sequence[str] = ("policy", "log")) -> None:
        self.lines: list[str] = []
        self.notes: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kmn.cli", *command, "--name", cluster, *options],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self.lines)),
            threading.Thread(target=self._read, args=(self.process.stderr, self.notes)),
        ]
        for reader in self._readers:
            reader.start()
        eventually(lambda: any("listening" in note for note in self.notes), f"the log listens: {self.notes}")

    @staticmethod
    def _read(stream: IO[str], lines: list[str]) -> None:
        with stream:
            for line in stream:
                lines.append(line.rstrip("\n"))

    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in list(self.lines)]

    def take(self, count: int = 1) -> list[dict[str, Any]]:
        """The next lines that come, which must be so many."""
        eventually(lambda: len(self.lines) >= count, f"{count} verdicts, not {self.lines}")
        found, self.lines[:] = self.entries(), []
        assert len(found) == count, found
        return found

    def noted(self, text: str) -> Callable[[], bool]:
        return lambda: any(text in note for note in self.notes)

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.ended()

    def ended(self) -> int:
        code = self.process.wait(20)
        for reader in self._readers:
            reader.join()
        return code


@contextlib.contextmanager
def log_of(cluster: Cluster, *options: str, command: Sequence[str] = ("policy", "log")) -> Iterator[Log]:
    log = Log(cluster.name, *options, command=command)
    try:
        yield log
    finally:
        assert log.interrupt() == 0
        assert not [note for note in log.notes if "Traceback" in note]
