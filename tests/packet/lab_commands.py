"""What the parts of the controller's lab are made with: commands, waiting, and threads in network namespaces."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["in_namespace", "run", "wait_for"]

_libc = ctypes.CDLL(None, use_errno=True)


def run(*command: str, env: dict[str, str] | None = None) -> str:
    """Output of a command; its errors are in the exception."""
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(env or {})}, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return done.stdout


def wait_for(what: Callable[[], Any], message: str, timeout: float = 20.0) -> Any:
    """The first true result of ``what``."""
    end = time.monotonic() + timeout
    while True:
        result = what()
        if result:
            return result
        assert time.monotonic() < end, message
        time.sleep(0.005)


def in_namespace(name: str, make: Callable[[], Any]) -> Any:
    """Result of ``make``, called in a network namespace (in a thread, which ends there)."""
    result: list[Any] = []

    def enter() -> None:
        with open(f"/run/netns/{name}") as namespace:
            if _libc.setns(namespace.fileno(), 0x40000000):
                result.append(OSError(ctypes.get_errno(), f"setns {name}"))
                return
        try:
            result.append(make())
        except OSError as error:
            result.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if isinstance(result[0], OSError):
        raise result[0]
    return result[0]
