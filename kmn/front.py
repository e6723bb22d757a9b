"""Starting, finding and stopping the process of a cluster (``kmn.daemon``): shared by the CLI and ``kmn.Cluster``.

What a name means is decided by one lock, ``/run/kmn/NAME.lock``: it is taken for the start, inherited by the daemon,
and free again when the last process that holds it is gone, however that came. So "the name is in use" is certain, and
whatever is found under a name whose lock is free was left by a crashed run.

The daemon is told to go by SIGTERM, or by its *lifeline*: a pipe whose other end the starting process holds and that
the kernel closes when this process dies.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from kmn import naming
from kmn.cluster_spec import ClusterSpec
from kmn.errors import NameInUse, NotRunning, UserError
from kmn.naming import CLUSTER_VARIABLE, Paths

__all__ = [
    "ClusterProcess",
    "Event",
    "Running",
    "clean",
    "deferred_interrupts",
    "leftovers",
    "require_root",
    "running",
    "select_cluster",
    "start",
    "stop",
]

Event = dict[str, Any]

_STOP_PATIENCE = 30.0  # seconds between SIGTERM and SIGKILL: a large cluster takes a while to go
_STATE_PATIENCE = 5.0  # seconds that a starting cluster may take to write its state
_LOCK_PATIENCE = 0.5  # seconds: `running` holds a lock for an instant
_LOG_TAIL = 12  # lines of the log shown when the daemon dies without a word


@dataclasses.dataclass(frozen=True, slots=True)
class Running:
    """A cluster whose process is there."""

    name: str
    pid: int
    started: float  # seconds since the epoch
    file: str  # the cluster file, "" for the default cluster
    detached: bool


class ClusterProcess:
    """A cluster that this process started. Owns the process, the report pipe and the lifeline."""

    def __init__(
        self,
        name: str,
        process: subprocess.Popen[bytes],
        report: int,
        lifeline: int | None,
        log: IO[str],
        source: str = "",
    ) -> None:
        self.name = name
        self.source = source  # the cluster file, if there is one
        self.paths = Paths(name)
        self._process = process
        self._report: int | None = report
        self._unread = b""
        self._lifeline = lifeline
        self._log = log  # kept open: readable also after the daemon has removed the file

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        return self._process.poll() is None

    def events(self, timeout: float | None = None) -> Iterator[Event]:
        """What the daemon reports, up to ``nodes``. Raises UserError when it fails, dies, or takes too long."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            line = self._next_line(deadline)
            if not line:
                raise self.ended()
            event: Event = json.loads(line)
            if event["event"] == "error":
                raise UserError(_where(self.name, self.source, event["message"]))
            yield event
            if event["event"] == "nodes":
                return

    def ends(self, patience: float) -> bool:
        """Whether the process has ended, or does so within ``patience`` seconds."""
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            return False
        return True

    def ended(self) -> UserError:
        """What to say of a process that should still be there. Waits for its end."""
        self._process.wait()
        how = f"was killed by signal {-code}" if (code := self._process.returncode) < 0 else f"ended (exit code {code})"
        return UserError(f"cluster {self.name}: its process {how}", self._log_tail())

    def stop(self) -> None:
        """End the cluster and remove everything it owns. Not interruptible: Ctrl-C waits until it is done."""
        with deferred_interrupts():
            self._close_lifeline()
            if self.alive():
                self._process.terminate()
                self._process.send_signal(signal.SIGCONT)  # a stopped process hears nothing else
                try:
                    self._process.wait(_STOP_PATIENCE)
                except subprocess.TimeoutExpired:
                    self._process.kill()
                    self._process.wait()
            self.release()
            _purge(self.name)

    def release(self) -> None:
        """Forget the process without ending it (a detached cluster); with a lifeline this ends it."""
        self._close_lifeline()
        if self._report is not None:
            os.close(self._report)
            self._report = None
        self._log.close()
        # A cluster that goes on is not waited for, and is no ResourceWarning.
        if self._process.returncode is None:
            self._process.returncode = 0

    def _close_lifeline(self) -> None:
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None

    def _next_line(self, deadline: float | None) -> bytes:
        """The next line of the report, b"" at its end."""
        assert self._report is not None
        while b"\n" not in self._unread:
            left = None if deadline is None else deadline - time.monotonic()
            if not _readable(self._report, left):
                raise UserError(f"cluster {self.name}: not up in time", "--timeout gives it longer")
            data = os.read(self._report, 65536)
            if not data:
                return b""
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _log_tail(self) -> str:
        self._log.seek(0)
        return "\n".join(["the end of its log:", *self._log.read().splitlines()[-_LOG_TAIL:]])


def _where(name: str, source: str, message: str) -> str:
    """An error of the daemon with its place: the file, line by line, where it is about fields of the file."""
    lines = message.splitlines()
    if source and all(line.startswith("spec.") for line in lines):
        return "\n".join(f"{os.path.relpath(source)}: {line}" for line in lines)
    return f"cluster {name}: {message}"


def start(spec: ClusterSpec, *, source: str = "", detach: bool = False) -> ClusterProcess:
    """Start the cluster's process; follow :meth:`ClusterProcess.events` to see it come up.

    Raises NameInUse, and UserError when not root. What a crashed run left under the name is removed first.
    """
    require_root("kmn up")
    with deferred_interrupts(), contextlib.ExitStack() as undo:
        lock = _lock(spec.name)
        undo.callback(os.close, lock)  # the daemon's copy keeps it locked
        from kmn.emulator.purge import purge

        purge(spec.name)
        paths = Paths(spec.name)
        paths.root.mkdir(mode=0o700)
        paths.log.mkdir()
        spec_file = paths.root / "spec.json"
        spec_file.write_text(json.dumps(spec.to_object()))
        log = (paths.log / "cluster.log").open("a+", errors="replace")
        report_read, report_write = os.pipe()
        undo.callback(os.close, report_write)
        argv = [sys.executable, "-P", "-m", "kmn.daemon", "--spec", str(spec_file), "--report", str(report_write)]
        pass_fds = [report_write, lock]
        lifeline: int | None = None
        if not detach:
            lifeline_read, lifeline = os.pipe()
            undo.callback(os.close, lifeline_read)
            argv += ["--lifeline", str(lifeline_read)]
            pass_fds.append(lifeline_read)
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env={**os.environ, CLUSTER_VARIABLE: spec.name},
            pass_fds=pass_fds,
            start_new_session=True,
        )
        _write_state(paths, Running(spec.name, process.pid, time.time(), source, detach))
        return ClusterProcess(spec.name, process, report_read, lifeline, log, source)


def running() -> list[Running]:
    """The clusters that run (or are being started) on this machine, by name."""
    found = (_state(name) for name in sorted(_lock_names()) if _locked(name))
    return [state for state in found if state is not None]


def leftovers() -> list[str]:
    """Names under which a crashed run left something: namespaces, processes, devices or files."""
    from kmn.emulator.purge import clusters

    return sorted(name for name in {*clusters(), *_lock_names()} if not _locked(name))


def select_cluster(name: str | None = None) -> Running:
    """The running cluster called ``name``; without a name, the only one. Raises NotRunning."""
    require_root("this")
    found = running()
    names = ", ".join(state.name for state in found)
    if name is None:
        if not found:
            raise NotRunning("no cluster is running", "kmn up starts one")
        if len(found) > 1:
            raise NotRunning(f"several clusters are running: {names}", "--name NAME says which one is meant")
        return found[0]
    for state in found:
        if state.name == name:
            return state
    raise NotRunning(f"cluster {name}: not running", f"running: {names}" if names else "kmn up starts one")


def stop(name: str) -> bool:
    """End a cluster that any process started and remove what it owns. False when there was nothing."""
    require_root("kmn down")
    with deferred_interrupts():
        was_running = _locked(name)
        if was_running:
            _end(_await_state(name))
        left = name in leftovers()
        _purge(name)
        return was_running or left


def clean(name: str | None = None) -> list[str]:
    """Remove what crashed runs left: under one name, or under all. Running clusters are left alone."""
    require_root("kmn clean")
    if name is not None and _locked(name):
        raise NameInUse(name)
    names = [found for found in leftovers() if name in (None, found)]
    with deferred_interrupts():
        for found in names:
            _purge(found)
    return names


def require_root(what: str) -> None:
    """Network namespaces are the business of root."""
    if os.geteuid() != 0:
        raise UserError(f"{what} needs root: it works on network namespaces", "put sudo in front of the command")


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP wait until the block is done; outside the main thread they never come."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers: dict[int, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        handlers[number] = signal.signal(number, lambda seen, _frame: came.append(seen))
    try:
        yield
    finally:
        for restored, handler in handlers.items():
            signal.signal(restored, handler if handler is not None else signal.SIG_DFL)
        if came:
            signal.raise_signal(came[0])


def _lock_names() -> list[str]:
    return [path.stem for path in naming.RUN_ROOT.glob("*.lock")]


def _lock(name: str) -> int:
    """The locked descriptor of a name. Raises NameInUse."""
    naming.RUN_ROOT.mkdir(mode=0o755, parents=True, exist_ok=True)
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        fd = os.open(Paths(name).lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever ends a cluster unlinks the file while it holds the lock: a lock on an unlinked file is none.
            if _same_file(fd, Paths(name).lock):
                return fd
            os.close(fd)
        except BlockingIOError:
            os.close(fd)
            if time.monotonic() > deadline:
                raise NameInUse(name) from None
            time.sleep(0.02)


def _locked(name: str) -> bool:
    try:
        fd = os.open(Paths(name).lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _purge(name: str) -> None:
    """Remove what is left under a name, unless somebody else has started a cluster under it in the meantime."""
    from kmn.emulator.purge import purge

    try:
        lock = _lock(name)
    except NameInUse:
        return
    try:
        purge(name)
        Paths(name).lock.unlink(missing_ok=True)
    finally:
        os.close(lock)


def _write_state(paths: Paths, state: Running) -> None:
    partial = paths.state.with_suffix(".new")
    partial.write_text(json.dumps(dataclasses.asdict(state)))
    partial.rename(paths.state)


def _state(name: str) -> Running | None:
    try:
        return Running(**json.loads(Paths(name).state.read_text()))
    except FileNotFoundError:
        return None


def _await_state(name: str) -> Running:
    deadline = time.monotonic() + _STATE_PATIENCE
    while (state := _state(name)) is None:
        if time.monotonic() > deadline:
            raise UserError(f"cluster {name}: is being started or taken down by another process", "try again")
        time.sleep(0.02)
    return state


def _end(state: Running) -> None:
    """SIGTERM, patience, SIGKILL. The descriptor of the process makes sure that no other one is hit."""
    try:
        process = os.pidfd_open(state.pid)
    except ProcessLookupError:
        return
    try:
        if not _carries(state.pid, state.name):
            return
        for ending, patience in ((signal.SIGTERM, _STOP_PATIENCE), (signal.SIGKILL, None)):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, ending)
                signal.pidfd_send_signal(process, signal.SIGCONT)  # a stopped process hears nothing else
            if _readable(process, patience):
                return
    finally:
        os.close(process)


def _readable(fd: int, timeout: float | None) -> bool:
    poller = select.poll()  # not select(): descriptors may be above 1023
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(None if timeout is None else max(0, timeout * 1000)))


def _carries(pid: int, name: str) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return f"{CLUSTER_VARIABLE}={name}".encode() in environment
