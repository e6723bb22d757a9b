"""Which load balancers Ingresses of class ``alb`` ask for, and what each is like: its listeners, and who may connect.

After upstream's IngressGroup: Ingresses with one ``group.name`` share a load balancer, their rules in the order of
``group.order`` (then namespace and name); each of the others has one of its own. What they say of the load balancer
itself must agree; where it does not, the first one counts (upstream leaves the load balancer as it was).
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any, NamedTuple

from kmn.ingress.dialects.alb.annotations import Notes, Wrong, networks
from kmn.ingress.envoy.listeners import HEALTH_PORT
from kmn.ingress.model import Problem
from kmn.k8s.objects import Object, key_of

__all__ = ["Group", "Listener", "balancer_name", "groups_of", "hostname_of", "listen_ports"]

_EVERYBODY = IPv4Network("0.0.0.0/0")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_MOST_NAME = 63
_ORDERS = (-1000, 1000)
_IDLE = "idle_timeout.timeout_seconds"
_FORWARDED = "routing.http.xff_header_processing.mode"
# Attributes that say nothing of packets, or what is done anyway.
_HARMLESS = ("deletion_protection.", "access_logs.", "connection_logs.")
_AS_IT_IS = {
    ("routing.http2.enabled", "true"),
    ("routing.http.drop_invalid_header_fields.enabled", "false"),
    ("routing.http.preserve_host_header.enabled", "true"),
    ("routing.http.xff_client_port.enabled", "false"),
    ("routing.http.x_amzn_tls_version_and_cipher_suite.enabled", "false"),
    (_FORWARDED, "append"),
}


class Listener(NamedTuple):
    """A port of a load balancer, and the networks whose hosts may connect to it."""

    port: int
    protocol: str  # HTTP | HTTPS
    sources: tuple[IPv4Network, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Ingresses that share a load balancer, or one that has its own."""

    id: str  # the group's name, or namespace/name of the Ingress
    members: tuple[Object, ...]  # in the order in which their rules are tried
    internal: bool
    listeners: tuple[Listener, ...]  # in order of ports
    redirect_to: int | None  # the HTTPS port that all HTTP listeners send to
    idle_timeout: float  # seconds
    wanted_name: str | None
    problems: tuple[Problem, ...]


def groups_of(ingresses: Iterable[Object]) -> tuple[list[Group], list[Problem]]:
    """The groups of those that are of class ``alb``; and what is wrong with Ingresses that get into none."""
    members: defaultdict[str, list[tuple[int, str, Object]]] = defaultdict(list)
    problems: list[Problem] = []
    for ingress in ingresses:
        notes, key = Notes(ingress), key_of(ingress)
        name = notes.text("group.name")
        order = notes.number("group.order", *_ORDERS) or 0
        if name is not None and (not _NAME.fullmatch(name) or len(name) > _MOST_NAME):
            notes.wrong("group.name", f'"{name}" should be a DNS name of {_MOST_NAME} characters at most')
        else:
            members[name if name is not None else str(key)].append((order, str(key), ingress))
        problems += notes.problems
    groups = [_group(name, [each for _, _, each in sorted(of, key=lambda m: m[:2])]) for name, of in members.items()]
    return sorted(groups, key=lambda group: group.id), problems


def listen_ports(notes: Notes) -> dict[int, str]:
    """Ports of an Ingress and the protocol of each, HTTP or HTTPS."""
    default = {443: "HTTPS"} if notes.text("certificate-arn") else {80: "HTTP"}
    value = notes.json("listen-ports")
    if value is None:
        return default
    found: dict[int, str] = {}
    for entry in value if isinstance(value, list) else [value]:
        for protocol, port in entry.items() if isinstance(entry, dict) else [(entry, None)]:
            if protocol not in ("HTTP", "HTTPS") or not isinstance(port, int) or not 1 <= port <= 65535:
                notes.wrong("listen-ports", f'{entry!r} should be like {{"HTTP": 80}} or {{"HTTPS": 443}}')
            elif port == HEALTH_PORT:
                notes.ignored(f"listen-ports: {port} is the emulated load balancer's own: choose another one")
            else:
                found[port] = protocol
    return found or default


def balancer_name(cluster: str, group: Group) -> str:
    """What AWS would call it; upstream's form, of at most 32 characters."""
    if group.wanted_name is not None:
        return group.wanted_name
    scheme = "internal" if group.internal else "internet-facing"
    digest = hashlib.sha256(f"{cluster}{group.id}{scheme}".encode()).hexdigest()[:10]
    parts = [re.sub(r"[^a-zA-Z0-9]", "", part) for part in group.id.split("/")]
    return "-".join(["k8s", *(part[: 17 if len(parts) == 1 else 8] for part in parts), digest])


def hostname_of(name: str, internal: bool, region: str) -> str:
    """The DNS name of a load balancer. AWS puts a number into it that it makes up; this one follows from the name."""
    number = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10**10
    return f"{'internal-' if internal else ''}{name}-{number:010d}.{region}.elb.amazonaws.com".lower()


def _group(name: str, members: Sequence[Object]) -> Group:
    notes = [Notes(member) for member in members]
    scheme = _agreed("scheme", {each: each.text("scheme", among=("internal", "internet-facing")) for each in notes})
    redirect = _agreed("ssl-redirect", {each: each.number("ssl-redirect", 1, 65535) for each in notes})
    wanted = _agreed("load-balancer-name", {each: _wanted_name(each) for each in notes})
    listeners = _listeners(notes)
    if redirect is not None and not any(each.port == redirect and each.protocol == "HTTPS" for each in listeners):
        said = next(each for each in notes if each.number("ssl-redirect", 1, 65535) is not None)
        said.wrong("ssl-redirect", f'"{redirect}" should be a port with HTTPS of listen-ports')
        redirect = None
    idle = _agreed("load-balancer-attributes", {each: _idle_timeout(each) for each in notes})
    return Group(
        id=name,
        members=tuple(members),
        internal=scheme != "internet-facing",
        listeners=listeners,
        redirect_to=redirect,
        idle_timeout=60.0 if idle is None else float(idle),
        wanted_name=wanted,
        problems=tuple(dict.fromkeys(problem for each in notes for problem in each.problems)),
    )


def _agreed(name: str, said: Mapping[Notes, Any]) -> Any:
    """The first that says something counts; None: nobody does."""
    found = next((value for value in said.values() if value is not None), None)
    for notes, value in said.items():
        if value is not None and value != found:
            notes.wrong(name, f'another Ingress of the group says "{found}" already, which counts: say the same')
    return found


def _listeners(notes: Sequence[Notes]) -> tuple[Listener, ...]:
    protocols: dict[int, str] = {}
    sources: defaultdict[int, dict[IPv4Network, None]] = defaultdict(dict)
    for each in notes:
        text = each.text("inbound-cidrs")
        try:
            allowed = networks((text or "").split(","))
        except Wrong as error:
            each.wrong("inbound-cidrs", str(error))
            allowed = (IPv4Network("255.255.255.255/32"),)  # not the same as none: nobody may come
        for port, protocol in listen_ports(each).items():
            if protocols.setdefault(port, protocol) != protocol:
                each.wrong("listen-ports", f"another Ingress of the group has {protocols[port]} on port {port}")
            sources[port].update(dict.fromkeys(allowed))
    return tuple(
        Listener(port, protocols[port], tuple(sources[port]) or (_EVERYBODY,)) for port in sorted(protocols)
    )  # fmt: skip


def _wanted_name(notes: Notes) -> str | None:
    name = notes.text("load-balancer-name")
    if name is not None and (not re.fullmatch(r"[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?", name) or len(name) > 32):
        notes.wrong("load-balancer-name", f'"{name}" should have 1 to 32 letters, digits and hyphens inside')
        return None
    return name.lower() if name is not None else None


def _idle_timeout(notes: Notes) -> int | None:
    attributes = notes.attributes("load-balancer-attributes")
    for key, value in attributes.items():
        if key != _IDLE and (key, value) not in _AS_IT_IS and not key.startswith(_HARMLESS):
            notes.ignored(f"load-balancer-attributes: {key}={value} is not emulated")
    if _IDLE not in attributes:
        return None
    idle = attributes[_IDLE]
    if not idle.isdecimal() or not 1 <= int(idle) <= 4000:
        notes.wrong("load-balancer-attributes", f'{_IDLE}: "{idle}" should be a number of seconds from 1 to 4000')
        return None
    return int(idle)
