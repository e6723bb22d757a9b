"""What kubelet and container runtime say to each other: JSON lines on a Unix socket, in order, either way.

Kubelet to runtime, ``{"op": OP, "items": [...]}``; every operation takes any number of items at once:

=========  =====================  =====================================================================
``start``  :class:`Container`     open its ports, run it
``stop``   container id           close everything it has; there is no event for it
``ports``  :class:`Ports`         the ports that a running container shall have from now on
``health`` :class:`Health`        what its probes shall find
``answer`` :class:`Answer`        what it says to every HTTP request, from now on
``probe``  :class:`Probe`         probe until told to stop
``unprobe``  probe id             stop
``sync``   any number             answered when all that was sent before is done
=========  =====================  =====================================================================

Runtime to kubelet, ``{"event": EVENT, "items": [...]}``:

============  ====================  ====================================================================
``hello``     :class:`Hello`        first of all: what this runtime can do
``started``   container id          all its ports are open
``exited``    :class:`Exited`       it ended by itself, or could not start
``ports``     :class:`PortFailed`   a port of a running container that could not be opened
``probe``     :class:`ProbeResult`  a probe's outcome, where it differs from the one before
``sync``      the number
============  ====================  ====================================================================

There is one kubelet. When its connection ends, the runtime ends: nothing runs that nobody watches.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

__all__ = [
    "MAX_LINE",
    "Answer",
    "Check",
    "Container",
    "Exited",
    "Health",
    "Hello",
    "Port",
    "PortFailed",
    "Ports",
    "Probe",
    "ProbeKind",
    "ProbeResult",
    "Protocol",
    "decode",
    "encode",
]

MAX_LINE = 256 * 1024 * 1024  # bytes: hundreds of thousands of containers

Protocol = Literal["TCP", "UDP", "SCTP"]
ProbeKind = Literal["startup", "readiness", "liveness"]
Port = tuple[Protocol, int]


@dataclass(frozen=True, slots=True)
class Container:
    """A container to run. ``id`` is of this one run: a restarted container is another one."""

    id: str
    netns: str
    addresses: tuple[str, ...]  # to listen on: 0.0.0.0 (and ::) in a namespace of its own
    pod: str
    namespace: str
    node: str
    name: str
    ports: tuple[Port, ...] = ()
    run_seconds: float | None = None  # ends by itself, with success, after this time; None: never
    ready: bool = True
    alive: bool = True

    @classmethod
    def load(cls, item: dict[str, Any]) -> Container:
        ports = tuple((protocol, port) for protocol, port in item.pop("ports"))
        return cls(**{**item, "addresses": tuple(item["addresses"]), "ports": ports})


@dataclass(frozen=True, slots=True)
class Ports:
    id: str
    ports: tuple[Port, ...]

    @classmethod
    def load(cls, item: dict[str, Any]) -> Ports:
        return cls(item["id"], tuple((protocol, port) for protocol, port in item["ports"]))


@dataclass(frozen=True, slots=True)
class Health:
    """Emulated failure: a container that is not ``ready`` (``alive``) fails its readiness (liveness) probe."""

    id: str
    ready: bool
    alive: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """A fixed answer instead of who and where the container is; the body is JSON."""

    id: str
    status: int
    body: str
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def load(cls, item: dict[str, Any]) -> Answer:
        headers = tuple((name, value) for name, value in item.pop("headers"))
        return cls(**item, headers=headers)


@dataclass(frozen=True, slots=True)
class Check:
    """What one attempt of a probe does: none passes always. ``path`` is of http, ``service`` of grpc."""

    type: Literal["http", "tcp", "grpc", "none"]
    host: str
    port: int
    path: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    service: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe, from the namespace of the node. Delays are in seconds; ``delay`` counts from now."""

    id: str
    container: str  # id
    kind: ProbeKind
    netns: str
    check: Check
    delay: float = 0
    period: float = 10
    timeout: float = 1
    success_threshold: int = 1
    failure_threshold: int = 3

    @classmethod
    def load(cls, item: dict[str, Any]) -> Probe:
        check = item.pop("check")
        headers = tuple((name, value) for name, value in check.pop("headers"))
        return cls(**item, check=Check(**check, headers=headers))


@dataclass(frozen=True, slots=True)
class Hello:
    sctp: bool  # the kernel has SCTP sockets


@dataclass(frozen=True, slots=True)
class Exited:
    id: str
    exit_code: int
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class PortFailed:
    id: str
    message: str


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """``verdict`` is the state after the thresholds; None as long as neither has been reached."""

    id: str
    success: bool
    verdict: bool | None
    message: str = field(default="")


def encode(word: Literal["op", "event"], value: str, items: list[Any]) -> bytes:
    """One line."""
    return orjson.dumps({word: value, "items": items}, option=orjson.OPT_APPEND_NEWLINE)


def decode(line: bytes) -> dict[str, Any]:
    message: dict[str, Any] = orjson.loads(line)
    return message
