"""Probes at their periods, and the thresholds after which a result counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kmn.emulator.runtime.checks import attempt
from kmn.emulator.runtime.containers import Container
from kmn.emulator.runtime.protocol import Probe, ProbeResult

__all__ = ["Prober", "Threshold"]

# Attempts at one time. A thousand pods that start together are probed together: their timeouts must run from when it
# is their turn, not from when they queued up for this process.
_AT_ONCE = 64


class Threshold:
    """Turns outcomes into a verdict: so many in a row of one kind, as the kubelet's prober worker counts them."""

    __slots__ = ("_failure", "_last", "_run", "_success", "verdict")

    def __init__(self, success: int, failure: int) -> None:
        self._success = success
        self._failure = failure
        self._last: bool | None = None
        self._run = 0
        self.verdict: bool | None = None

    def count(self, success: bool) -> bool | None:
        """Take one outcome in; the verdict after it."""
        self._run = self._run + 1 if success is self._last else 1
        self._last = success
        if self._run >= (self._success if success else self._failure):
            self.verdict = success
        return self.verdict


class Prober:
    """Runs probes until told to stop. ``report`` is called when an outcome differs from the one before."""

    def __init__(self, report: Callable[[ProbeResult], None]) -> None:
        self._report = report
        self._running: dict[str, _Running] = {}
        self._turn = asyncio.Semaphore(_AT_ONCE)

    def start(self, probe: Probe, container: Container | None) -> None:
        """``container`` is the one that shall be found well; None if it is none of ours any more."""
        self.stop(probe.id)
        self._running[probe.id] = _Running(probe, container, self._turn, self._report)

    def stop(self, probe_id: str) -> None:
        """A probe that is not known is no error: it may have gone with its container."""
        if running := self._running.pop(probe_id, None):
            running.cancel()

    def stop_all(self) -> None:
        for running in self._running.values():
            running.cancel()
        self._running.clear()


class _Running:
    """One probe: a timer between the attempts, a task only while there is one."""

    __slots__ = ("_container", "_due", "_last", "_probe", "_report", "_task", "_threshold", "_timer", "_turn")

    def __init__(
        self,
        probe: Probe,
        container: Container | None,
        turn: asyncio.Semaphore,
        report: Callable[[ProbeResult], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self._probe = probe
        self._container = container
        self._turn = turn
        self._report = report
        self._threshold = Threshold(probe.success_threshold, probe.failure_threshold)
        self._last: tuple[bool, bool | None, str] | None = None
        self._task: asyncio.Task[None] | None = None
        self._due = loop.time() + probe.delay
        self._timer = loop.call_at(self._due, self._fire)

    def cancel(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _fire(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._attempt())

    async def _attempt(self) -> None:
        async with self._turn:
            failure = await attempt(self._probe)
        if not failure:
            failure = self._told_to_fail()
        outcome = (not failure, self._threshold.count(not failure), failure)
        if outcome != self._last:
            self._last = outcome
            self._report(ProbeResult(self._probe.id, *outcome))
        # Like a ticker: an attempt that takes longer than the period loses a beat instead of shifting all others.
        loop = asyncio.get_running_loop()
        missed = max(0, int((loop.time() - self._due) // self._probe.period))
        self._due += (missed + 1) * self._probe.period
        self._timer = loop.call_at(self._due, self._fire)
        self._task = None

    def _told_to_fail(self) -> str:
        """Only HTTP and gRPC can answer that all is not well; for the others the pod's switch does."""
        if self._probe.kind != "liveness" or self._container is None or self._container.alive:
            return ""
        return 'the pod\'s annotation kmn.io/alive is "false"'
