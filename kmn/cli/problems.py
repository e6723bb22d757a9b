"""What to tell a person about an exception: one line, and what to do about it. No tracebacks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from kmn.errors import UserError
from kmn.k8s.errors import ApiError

__all__ = ["Failed", "describe", "failing_with"]


class Failed(Exception):
    """Raised from an error, by a command whose exit codes have meanings, with the code for errors."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code


@contextlib.contextmanager
def failing_with(code: int) -> Iterator[None]:
    """Errors in it end the command with this code."""
    try:
        yield
    except BrokenPipeError:  # whoever read has read enough
        raise
    except Exception as error:
        raise Failed(code) from error


def describe(error: Exception) -> tuple[str, str]:
    """Message and hint. Errors of kmn's own say it all; others are named and ask for a report."""
    if isinstance(error, UserError):
        return error.message, error.hint
    if isinstance(error, ApiError):
        return error.message, ""
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return f"{error.filename}: no such file", ""
    if isinstance(error, PermissionError):
        return f"{error.filename}: permission denied", "put sudo in front of the command"
    if type(error).__module__.partition(".")[0] == "kmn":
        return str(error), ""
    if isinstance(error, OSError):
        return str(error), "KMN_DEBUG=1 shows where it came from"
    return f"{type(error).__name__}: {error}", "this is a bug in kmn: KMN_DEBUG=1 shows where it came from"
