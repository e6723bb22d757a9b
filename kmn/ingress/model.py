"""What Ingresses say, put together: hosts, their rules in order of precedence, certificates. Plain data.

Nothing here is Envoy's; other objects that route by host and path can be read into the same model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from kmn.k8s.objects import Key

__all__ = ["ANY_HOST", "Backend", "Certificate", "Host", "Problem", "Routing", "Rule"]

ANY_HOST = ""  # the name of the host of rules that name none


class Backend(NamedTuple):
    """A port of a Service, by its number or name."""

    namespace: str
    service: str
    port: int | str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.service}:{self.port}"


class Rule(NamedTuple):
    """A path of a host. A prefix is one of path elements, and has no slash at its end: "" is all paths."""

    path: str
    exact: bool
    backend: Backend
    owner: Key  # the Ingress


class Host(NamedTuple):
    """``name`` is a DNS name in lower case, ``*.`` and one (which stands for one label), or ANY_HOST."""

    name: str
    rules: tuple[Rule, ...]  # the first that matches counts
    default: Backend | None  # for paths that no rule matches


class Certificate(NamedTuple):
    """Clients that ask for this host are shown this Secret's certificate."""

    host: str
    secret: Key
    owner: Key  # the Ingress


class Problem(NamedTuple):
    """What of an Ingress has no effect: an Event on it says so. ``reason`` is one word, ``message`` names the field."""

    ingress: Key
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Routing:
    """All that one controller routes."""

    hosts: tuple[Host, ...]  # each name once
    default: Backend | None  # for hosts that nothing else matches; None: 404
    certificates: tuple[Certificate, ...]  # each host once
    uses: tuple[tuple[Key, Backend], ...]  # which Ingress may send requests where
    problems: tuple[Problem, ...]

    def backends(self) -> frozenset[Backend]:
        """All that requests may go to."""
        return frozenset(backend for _, backend in self.uses)
