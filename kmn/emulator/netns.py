"""Network namespaces with names, as ``ip netns`` has them: a file under /run/netns that pins each one.

A thread enters a namespace alone; its process does not follow. All functions that move the calling thread say so,
and run within :func:`restored`, which brings it back.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kmn.naming import NETNS_DIR

__all__ = [
    "create",
    "delete",
    "enter",
    "entered",
    "isolate",
    "link_etc",
    "names",
    "same_tcp_clock",
    "open_netns",
    "restored",
    "sysctl",
    "unlink_etc",
]

_CLONE_NEWNET = 0x40000000
_MS_BIND, _MS_REC, _MS_SHARED = 0x1000, 0x4000, 1 << 20
_MNT_DETACH = 2
_OWN = "/proc/thread-self/ns/net"

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object, about: str) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{about}: {name}: {os.strerror(number)}")


@contextmanager
def restored() -> Iterator[None]:
    """Bring the calling thread back to the namespace that it was in."""
    home = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        _call("setns", home, _CLONE_NEWNET, about="network namespace of the thread")
        os.close(home)


@contextmanager
def entered(netns: int | str) -> Iterator[None]:
    """Run in a namespace, given by name or open file. Sockets and processes made within stay in it."""
    with restored():
        enter(netns)
        yield


def enter(netns: int | str) -> None:
    """Move the calling thread into a namespace."""
    if isinstance(netns, int):
        _call("setns", netns, _CLONE_NEWNET, about="network namespace")
        return
    file = open_netns(netns)
    try:
        _call("setns", file, _CLONE_NEWNET, about=f"network namespace {netns}")
    finally:
        os.close(file)


def isolate() -> None:
    """Move the calling thread into a new namespace without a name, which goes when the thread ends."""
    _call("unshare", _CLONE_NEWNET, about="network namespace")


def open_netns(name: str) -> int:
    """The open file of a namespace. While it is open, the namespace lives."""
    return os.open(NETNS_DIR / name, os.O_RDONLY | os.O_CLOEXEC)


def create(name: str, *, ipv6: bool = False) -> None:
    """Make a namespace, which the calling thread is then in. Raises FileExistsError when the name is taken."""
    _prepare()
    path = NETNS_DIR / name
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    try:
        _call("unshare", _CLONE_NEWNET, about=f"network namespace {name}")
        if not ipv6:
            # Router solicitations and MLD reports of a thousand namespaces would keep the switches busy.
            sysctl("net/ipv6/conf/all/disable_ipv6", "1", optional=True)
        same_tcp_clock()
        _call("mount", _OWN.encode(), bytes(path), None, _MS_BIND, None, about=f"network namespace {name}")
    except BaseException:
        path.unlink()
        raise


def same_tcp_clock() -> None:
    """TCP timestamps of all connections from the calling thread's namespace count from the same zero.

    A server remembers a closed connection for a minute, and takes a new one with the same addresses and ports only if
    its timestamps are later. Behind a NAT these may be of different clients, and of one client to different virtual
    addresses; with random offsets, Linux' default, half of such connections would hang, as connection tracking takes
    the server's answer for the old one as invalid.
    """
    sysctl("net/ipv4/tcp_timestamps", "2", optional=True)


def delete(name: str) -> None:
    """Remove a name; the namespace goes when nothing lives in it. One that is gone is no error."""
    path = NETNS_DIR / name
    _libc.umount2(bytes(path), _MNT_DETACH)  # fails for a file that is not mounted on, or not there: same end
    path.unlink(missing_ok=True)


def names(prefix: str) -> list[str]:
    """All names that begin with a prefix."""
    try:
        return [name for name in os.listdir(NETNS_DIR) if name.startswith(prefix)]
    except FileNotFoundError:
        return []


def sysctl(name: str, value: str, *, optional: bool = False) -> None:
    """Set a parameter of the calling thread's namespace: ``sysctl("net/ipv4/ip_forward", "1")``."""
    try:
        file = os.open(f"/proc/sys/{name}", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if optional:
            return
        raise
    try:
        os.write(file, value.encode())
    finally:
        os.close(file)


_prepared = False
_prepare_lock = threading.Lock()


def _prepare() -> None:
    """Make /run/netns a shared mount, as ``ip netns add`` does, so that other mount namespaces let go of names too."""
    global _prepared
    with _prepare_lock:
        if _prepared:
            return
        NETNS_DIR.mkdir(mode=0o755, parents=True, exist_ok=True)
        path = bytes(NETNS_DIR)
        if _libc.mount(b"none", path, None, _MS_SHARED | _MS_REC, None) != 0:
            _call("mount", path, path, b"none", _MS_BIND | _MS_REC, None, about=str(NETNS_DIR))
            _call("mount", b"none", path, None, _MS_SHARED | _MS_REC, None, about=str(NETNS_DIR))
        _prepared = True


def link_etc(name: str, target: Path) -> None:
    """Make /etc/netns/NAME lead to ``target``: ``ip netns exec`` lays those files over /etc."""
    link = Path("/etc/netns") / name
    link.parent.mkdir(mode=0o755, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def unlink_etc(name: str) -> None:
    """Undo :func:`link_etc`."""
    (Path("/etc/netns") / name).unlink(missing_ok=True)
