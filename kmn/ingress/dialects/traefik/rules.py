"""Routers: a rule for each path of an Ingress, in the order of their priority, on the ports of their entry points.

Traefik puts rules in order by their length as text, hosts and paths alike, unless ``router.priority`` says otherwise;
``Prefix`` and ``ImplementationSpecific`` compare characters, not path elements. ``spec.defaultBackend`` counts where an
Ingress has no rules. Each entry point has a table of its own: ``router.entrypoints`` and ``router.tls`` choose.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from kmn.ingress.dialects.traefik.annotations import Notes
from kmn.ingress.dialects.traefik.middlewares import Draft, Unusable, apply_middlewares
from kmn.ingress.dialects.traefik.services import Target, target_of
from kmn.ingress.model import (
    ANY_HOST,
    Entrance,
    Forward,
    Host,
    How,
    Match,
    Owner,
    Problem,
    Redirect,
    Routing,
    Rule,
    Share,
    Table,
    Text,
    Treatment,
)
from kmn.ingress.reading import Claim, Reading, Shown, read_all, unknown_annotations
from kmn.ingress.regexes import checked, found_in
from kmn.ingress.routing import Find, certificates_of
from kmn.k8s.objects import Key, Object
from kmn.k8s.resources import SERVICES

__all__ = ["routing_of"]

ENTRY_POINTS = {"web": 80, "websecure": 443}
_TLS = "websecure"
_DOMAIN = "traefik.ingress.kubernetes.io"
_KNOWN = ("router.entrypoints", "router.middlewares", "router.priority", "router.pathmatcher", "router.tls")
_LAST = -(2**31)
_MATCHERS = ("Path", "PathPrefix", "PathRegexp")


class _Router(NamedTuple):
    """Rules of one claim at one entry point."""

    host: str
    priority: int
    rules: tuple[Rule, ...]


def routing_of(ingresses: Iterable[Object], find: Find) -> Routing:
    """What the Ingresses of the controller say together."""
    provider = _Provider(find)
    for reading in read_all(ingresses):
        provider.take(reading)
    return provider.result()


class _Provider:
    """Ingresses are taken in one after the other, the oldest first."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self._first: dict[tuple[str, str, int, Match], Owner] = {}  # who has a rule, by entry point, host, priority
        self._routers: dict[str, list[_Router]] = {name: [] for name in ENTRY_POINTS}
        self._default: Owner | None = None
        self._shown: list[Shown] = []
        self._problems: dict[Problem, None] = {}

    def take(self, reading: Reading) -> None:
        notes = Notes(reading.ingress, reading.owner)
        notes.unknown(_KNOWN)
        for claim in reading.claims:
            self._router(claim, notes)
        if reading.default is not None:
            self._default_router(reading, reading.default, notes)
        self._shown += reading.shown
        self._tell([*reading.problems, *unknown_annotations(reading, _DOMAIN), *notes.problems])

    def result(self) -> Routing:
        certificates, problems = certificates_of(self._shown)
        self._tell(problems)
        entrances = tuple(
            Entrance(port, name, tls=name == _TLS, certificates=certificates if name == _TLS else ())
            for name, port in ENTRY_POINTS.items()
        )
        tables = {name: Table(_hosts(routers)) for name, routers in self._routers.items()}
        return Routing(entrances, tables, tuple(self._problems))

    def _default_router(self, reading: Reading, claim: Claim, notes: Notes) -> None:
        if reading.claims or reading.hosts:
            notes.tell("Rejected", "spec.defaultBackend: it counts only where an Ingress has no rules")
        elif self._default is not None:
            notes.tell("Conflict", f"spec.defaultBackend: {self._default}, which is older, has it already")
        else:
            self._default = claim.owner
            self._router(claim, notes, last=True)

    def _router(self, claim: Claim, notes: Notes, *, last: bool = False) -> None:
        target = self._target(claim, notes)
        if target is None:
            return
        matcher, path = "PathPrefix", claim.path
        if claim.path_type == "Exact":
            matcher = "Path"
        elif claim.path_type == "ImplementationSpecific":
            matcher = notes.text("router.pathmatcher", among=_MATCHERS) or matcher
        try:
            match = Match(_text(matcher, path))
            draft = Draft(path, Treatment(session=target.cookie))
            apply_middlewares(draft, notes.words("router.middlewares"), self._find)
        except (ValueError, Unusable) as error:
            notes.tell("Rejected", f"{claim.field}: there is no router, requests are answered 404: {error}")
            return
        for remark in draft.remarks:
            notes.tell("NotEmulated", remark)
        length = len(_rule_text(claim.host, matcher, path))
        priority = _LAST if last else notes.number("router.priority") or length
        rule = Rule(match, Forward((Share(target.upstream),)), claim.owner, claim.field, draft.treatment)
        for name in self._entry_points(notes):
            first = self._first.setdefault((name, claim.host, priority, match), claim.owner)
            if first != claim.owner:
                where = f"{claim.host or 'any host'}{path}"
                notes.tell("Conflict", f"{claim.field}: {where}: {first}, which is older, has the same rule already")
            rules = tuple(_with_redirect(rule, draft, name))
            self._routers[name].append(_Router(claim.host, priority, rules))

    def _target(self, claim: Claim, notes: Notes) -> Target | None:
        """None: Traefik makes no router without the Service."""
        key = Key(claim.backend.namespace, claim.backend.service)
        service = self._find(SERVICES, key)
        if service is None:
            message = f"{claim.field}: there is no router, requests are answered 404: Service {key} does not exist"
            notes.tell("NoBackend", message)
            return None
        of_service = Notes(service, claim.owner, f"Service {key}: ")
        target = target_of(of_service, claim.backend, service)
        self._tell(of_service.problems)
        return target

    def _entry_points(self, notes: Notes) -> Iterator[str]:
        """A router with TLS has no requests without; others are at all entry points, unless some are named."""
        named = notes.words("router.entrypoints")
        for name in named:
            if name not in ENTRY_POINTS:
                notes.wrong("router.entrypoints", f'"{name}" is none: there are {" and ".join(ENTRY_POINTS)}')
        for name in named or ENTRY_POINTS:
            if name in ENTRY_POINTS and (name == _TLS or not notes.flag("router.tls")):
                yield name

    def _tell(self, problems: Iterable[Problem]) -> None:
        """Each once, though many paths may say the same."""
        self._problems |= dict.fromkeys(problems)


def _text(matcher: str, path: str) -> Text:
    if matcher == "Path":
        return Text(How.EXACT, path)
    if matcher == "PathRegexp":
        return Text(How.REGEX, found_in(checked(path)))
    if path == "/":
        return Text(How.PREFIX)
    return Text(How.REGEX, f"{re.escape(path)}.*")


def _rule_text(host: str, matcher: str, path: str) -> str:
    """As Traefik writes it: its length is the router's priority."""
    parts = [f"{matcher}(`{path}`)"]
    if host.startswith("*."):
        pattern = re.escape(host).replace(r"\*\.", r"[a-zA-Z0-9-]+\.", 1).replace(r"\-", "-")
        parts.insert(0, f"HostRegexp(`^{pattern}$`)")
    elif host != ANY_HOST:
        parts.insert(0, f"Host(`{host}`)")
    return " && ".join(parts)


def _with_redirect(rule: Rule, draft: Draft, entry_point: str) -> Iterator[Rule]:
    """A request that has the scheme already goes on. Methods with a body are redirected so that they keep it."""
    if draft.redirect is None or draft.redirect[0] == ("https" if entry_point == _TLS else "http"):
        yield rule
        return
    scheme, port, permanent = draft.redirect
    treatment = replace(rule.treatment, rewrite=None)
    reads = rule.match._replace(methods=("GET",))
    for match, code in ((reads, 301 if permanent else 302), (rule.match, 308 if permanent else 307)):
        yield rule._replace(match=match, action=Redirect(code, scheme=scheme, port=port), treatment=treatment)


def _hosts(routers: Iterable[_Router]) -> tuple[Host, ...]:
    """Each host has all rules that may match a request for it, the highest priority first: those of a wildcard or of
    any host may go before its own."""
    ordered = sorted(routers, key=lambda router: -router.priority)  # of equal ones the older first
    names = sorted({ANY_HOST, *(router.host for router in ordered)})
    return tuple(
        Host(name, tuple(rule for router in ordered if _covers(router.host, name) for rule in router.rules))
        for name in names
    )


def _covers(host: str, name: str) -> bool:
    """Whether rules for one host are for requests for another name, too."""
    if host in (ANY_HOST, name):
        return True
    return host.startswith("*.") and name.partition(".")[2] == host[2:] and not name.startswith("*.")
