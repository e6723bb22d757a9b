"""A log that is bounded: the file that is written, and the one before it. When the first is full it becomes the second.

Whoever follows it opens it once more when another file is there in its place; what was read of the one before goes on
to its end, as nothing is written there any more.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

__all__ = ["LogReader", "kept_lines", "older"]

_CHUNK = 1 << 18  # bytes read at once


def older(path: Path) -> Path:
    """The file before this one."""
    return path.with_name(f"{path.name}.1")


class LogReader:
    """Follows a log from its beginning, or (``from_end``) from what is there when it is made."""

    def __init__(self, path: Path, *, from_end: bool = False) -> None:
        self._path = path
        self._rest = b""  # of a line that is not complete yet
        self._file = self._opened()
        if from_end and self._file is not None:
            self._file.seek(0, os.SEEK_END)

    def read(self) -> list[bytes]:
        """Lines that came, without their ends; not all of them at once where there are many: none means no more."""
        if self._file is None:
            self._file = self._opened()
        if self._file is None:
            return []
        replaced = self._is_replaced(self._file)
        lines = self._lines(self._file)
        if not lines and replaced:
            self.close()
            return self.read()
        return lines

    @property
    def behind(self) -> bool:
        """Whether it reads a file in whose place there is another one."""
        return self._file is not None and self._is_replaced(self._file)

    def close(self) -> None:
        """The next :meth:`read` begins with what is there then."""
        if self._file is not None:
            self._file.close()
        self._file, self._rest = None, b""

    def _lines(self, file: BinaryIO) -> list[bytes]:
        while chunk := file.read(_CHUNK):
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            if lines:
                return lines
        return []

    def _opened(self) -> BinaryIO | None:
        try:
            return self._path.open("rb", buffering=0)
        except FileNotFoundError:
            return None

    def _is_replaced(self, file: BinaryIO) -> bool:
        """Whether there is another file in its place. It must be asked before the last look at this one."""
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        own = os.fstat(file.fileno())
        return (there.st_ino, there.st_dev) != (own.st_ino, own.st_dev)


def kept_lines(path: Path) -> list[bytes]:
    """All complete lines of what is kept, the oldest first."""
    lines: list[bytes] = []
    for each in (older(path), path):
        try:
            text = each.read_bytes()
        except FileNotFoundError:
            continue
        lines += text[: text.rfind(b"\n") + 1].splitlines()
    return lines
