"""A child process that is there as long as it is wanted: started, watched, started again when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["Child"]

log = logging.getLogger(__name__)

_BACKOFF_FIRST = 0.05  # seconds until the first restart: a killed process should be missed as little as possible
_BACKOFF_LIMIT = 5.0
_STABLE = 10.0  # seconds of life after which the backoff starts over
_PATIENCE = 2.0  # seconds between SIGTERM and SIGKILL


class Child:
    """Keeps ``argv`` running until :meth:`stop`. Its output goes to ``log_file``.

    ``on_start`` is called with the process id after each start, so that whoever talks to it can begin anew.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log_file: Path,
        env: dict[str, str],
        on_start: Callable[[int], None] | None = None,
    ) -> None:
        self.name = name
        self._argv = list(argv)
        self._log_file = log_file
        self._env = env
        self._on_start = on_start
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._wanted = False

    @property
    def pid(self) -> int | None:
        """Process id, None while there is none."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Start once and keep watch in the background. Raises OSError when the program cannot be started at all."""
        self._wanted = True
        await self._spawn()
        self._task = asyncio.create_task(self._watch(), name=f"supervise-{self.name}")

    def release(self) -> None:
        """Do not start it again when it ends."""
        self._wanted = False
        if self._task is not None:
            self._task.cancel()

    async def stop(self) -> None:
        """End it: SIGTERM, and SIGKILL for what does not listen."""
        self.release()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):  # it ends at this moment
            process.terminate()
            process.send_signal(signal.SIGCONT)  # a stopped process hears nothing else
        try:
            await asyncio.wait_for(process.wait(), _PATIENCE)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _spawn(self) -> None:
        with self._log_file.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._env,
                start_new_session=True,  # a Ctrl-C at the terminal is the front's business
            )
        if self._on_start is not None:
            self._on_start(self._process.pid)

    async def _watch(self) -> None:
        backoff = _BACKOFF_FIRST
        while self._wanted:
            assert self._process is not None
            born = time.monotonic()
            code = await self._process.wait()
            if time.monotonic() - born > _STABLE:
                backoff = _BACKOFF_FIRST
            log.warning(
                "%s ended with %s; starting it again in %.2f s (see %s)", self.name, code, backoff, self._log_file
            )
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, _BACKOFF_LIMIT)
            await self._spawn()
