"""What becomes of a request that comes to an ingress controller, and why: from the objects alone. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from kmn.ingress.demands import FIELDS, demands_of, is_allowed
from kmn.ingress.match import Candidate, Decision, Request, decide, named, shown_path
from kmn.ingress.model import (
    ANY_HOST,
    Answer,
    Certificate,
    Entrance,
    Forward,
    HeaderChange,
    Redirect,
    Routing,
    Rule,
    Share,
    Stream,
    Treatment,
)
from kmn.ingress.outcome import host_seen, https_location, location, path_seen
from kmn.ingress.state import View
from kmn.k8s.objects import Object

__all__ = ["Asked", "Explanation", "Target", "explain"]


class Asked(NamedTuple):
    """A request, and how it comes in. ``client`` "": anybody. ``server_name`` is what TLS asks for."""

    request: Request
    scheme: str
    port: int
    client: str = ""
    server_name: str = ""

    def __str__(self) -> str:
        return f"{self.request.method} {self.scheme}://{self.request.host}{self.request.target}"


class Target(NamedTuple):
    """Where requests may be forwarded: a backend, its part of them, and the ready pods behind it."""

    backend: str
    protocol: str
    percent: float
    endpoints: tuple[str, ...]
    problem: str | None

    def as_json(self) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "backend": self.backend,
            "protocol": self.protocol,
            "percent": round(self.percent, 2),
            "endpoints": list(self.endpoints),
        }
        return shown | ({"problem": self.problem} if self.problem else {})


@dataclass(frozen=True, slots=True)
class Explanation:
    """``status`` is what the proxy answers itself, None where the request is forwarded; 0: there is no answer."""

    asked: Asked
    controller: str
    entrance: str
    host: str | None  # whose rules count; None: no host fits
    winner: Candidate | None
    status: int | None
    reason: str
    location: str | None = None
    treatment: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()
    others: tuple[Candidate, ...] = ()
    notes: tuple[str, ...] = ()  # what of the objects concerned has no effect

    @property
    def good(self) -> bool:
        """Whether it is forwarded, redirected, or answered with success."""
        return self.status is None or 200 <= self.status < 400

    def as_json(self) -> dict[str, Any]:
        """For programs; what does not apply is left out."""
        request = self.asked.request
        shown: dict[str, Any] = {
            "request": {"method": request.method, "scheme": self.asked.scheme, "port": self.asked.port,
                        "host": request.host, "path": request.target},
            "controller": self.controller,
            "entrance": self.entrance,
            "host": self.host,
            "rule": self.winner.rule.name if self.winner else None,
            "verdict": self.verdict,
            "status": self.status,
            "reason": self.reason,
            "location": self.location,
            "treatment": list(self.treatment),
            "backends": [target.as_json() for target in self.targets],
            "others": [{"rule": each.rule.name, "host": each.host or "*", "reason": each.why} for each in self.others],
            "notes": list(self.notes),
        }  # fmt: skip
        return {name: value for name, value in shown.items() if value not in (None, []) or name in ("host", "rule")}

    @property
    def verdict(self) -> str:
        """One word or two."""
        if self.status is None:
            return "forwarded"
        if self.location is not None:
            return f"redirected ({self.status})"
        return f"answered {self.status}" if self.status else "refused"


def explain(
    asked: Asked, controller: str, view: View, place: Callable[[str], str], alone: Callable[[Object], Routing]
) -> Explanation:
    """``place`` names what has an address; ``alone`` says what an object would do if it were the only one."""
    entrance = next((each for each in view.config.routing.entrances if each.public == asked.port), None)
    if entrance is None or entrance.tls is not (asked.scheme == "https"):
        spoken = "" if entrance is None else f" for {asked.scheme}: it speaks {'TLS' if entrance.tls else 'no TLS'}"
        ports = ", ".join(f"{each.public}{' (TLS)' if each.tls else ''}" for each in view.config.routing.entrances)
        reason = f"port {asked.port} is not there{spoken}; those that are: {ports or 'none'}"
        return Explanation(asked, controller, f"port {asked.port}", None, None, 0, reason)
    stream = _stream(entrance, asked.server_name, view)
    if stream is not None:
        return _streamed(asked, controller, view, entrance, stream, place)
    certificate = _certificate(entrance, asked.server_name, view)
    tls = f", TLS, {_shown(certificate, entrance, view)}" if entrance.tls else ""
    way = _Way(asked, controller, view, place, f"port {entrance.public}{tls}")
    if entrance.table is None or (entrance.tls and entrance.strict and certificate is None):
        return way.end(Decision((), None, ()), 0, "connections that nothing is there for are closed")
    decision = decide(view.config.routing.tables[entrance.table], asked.request)
    lost = tuple(_lost(asked, view, decision, entrance, alone))
    decision = Decision(decision.hosts, decision.winner, decision.others + lost)
    if decision.winner is None:
        return way.end(decision, 404, _nobody(decision, asked.request))
    return way.by_rule(decision, decision.winner.rule, tls=entrance.tls)


# --- the entrance -----------------------------------------------------------------------------------------------


def _certificate(entrance: Entrance, server_name: str, view: View) -> Certificate | None:
    """The one that is for a name, None where there is none of its own."""
    usable = _usable(entrance, view)
    found = named([each.host for each in usable], server_name) or ANY_HOST
    return next((each for each in usable if each.host == found), None)


def _usable(entrance: Entrance, view: View) -> list[Certificate]:
    """Those that have a part of the entrance of their own."""
    return [each for each in entrance.certificates if entrance.strict or each.secret in view.config.certified]


def _shown(certificate: Certificate | None, entrance: Entrance, view: View) -> str:
    if certificate is None and entrance.strict:
        return "no certificate for the host"
    if certificate is None or certificate.secret not in view.config.certified:
        return "the default certificate"
    whose = f" for {certificate.host}" if certificate.host else ""
    return f"certificate of Secret {certificate.secret}{whose} ({certificate.owner})"


def _stream(entrance: Entrance, server_name: str, view: View) -> Stream | None:
    """The one that a connection goes by. Of TLS: unless a certificate is for a name that fits better."""
    if not entrance.tls:
        return next(iter(entrance.streams), None) if entrance.table is None else None
    passed = [host for stream in entrance.streams for host in stream.hosts]
    found = named([*passed, *(each.host for each in _usable(entrance, view))], server_name)
    return next((stream for stream in entrance.streams if found in stream.hosts), None)


def _streamed(
    asked: Asked, controller: str, view: View, entrance: Entrance, stream: Stream, place: Callable[[str], str]
) -> Explanation:
    targets = tuple(_targets(stream.shares, view, place))
    reason = f"{stream.owner} {stream.field} passes the connection on as it is"
    reached = any(target.endpoints for target in targets)
    reason += "" if reached else "; nobody is ready"
    where = f"port {entrance.public}{', TLS, not taken apart' if entrance.tls else ''}"
    status = None if reached else 0
    return Explanation(asked, controller, where, None, None, status, reason, targets=targets)


# --- the rule ---------------------------------------------------------------------------------------------------


class _Way(NamedTuple):
    """What is known of a request once it is in."""

    asked: Asked
    controller: str
    view: View
    place: Callable[[str], str]
    entrance: str

    def end(self, decision: Decision, status: int | None, reason: str, **more: Any) -> Explanation:
        hosts = [host.name for host in decision.hosts if host.rules or host.name]
        host = hosts[0] if hosts else None
        owners = {each.rule.owner for each in (decision.winner, *decision.others) if each is not None}
        problems = (problem for problem in self.view.problems if problem.owner in owners)
        notes = tuple(dict.fromkeys(f"{problem.reason}: {problem.message}" for problem in problems))
        return Explanation(
            self.asked, self.controller, self.entrance, host, decision.winner, status, reason,
            others=decision.others, notes=notes, **more,
        )  # fmt: skip

    def by_rule(self, decision: Decision, rule: Rule, *, tls: bool) -> Explanation:
        request, treatment = self.asked.request, rule.treatment
        if treatment.https_only is not None and not tls:
            where = https_location(request, without_slash=treatment.https_without_slash)
            return self.end(decision, treatment.https_only, "the rule wants TLS", location=where)
        if isinstance(rule.action, Redirect):
            where = location(rule, rule.action, request, self.asked.scheme)
            return self.end(decision, rule.action.code, "the rule redirects", location=where)
        if isinstance(rule.action, Answer):
            answer = rule.action
            return self.end(decision, answer.status, "the rule says so, nobody is asked", location=answer.location)
        if self.asked.client and not is_allowed(treatment.sources, self.asked.client):
            return self.end(decision, 403, f"clients with address {self.asked.client} may not ask")
        targets = tuple(_targets(rule.action.shares, self.view, self.place))
        status, reason = _forwarded(rule.action, targets)
        return self.end(
            decision, status, reason, targets=targets, treatment=tuple(_treated(treatment, rule, self.asked))
        )


def _nobody(decision: Decision, request: Request) -> str:
    if not decision.hosts or not decision.hosts[0].rules:
        return f"no rule is for host {request.name}"
    return f"host {decision.hosts[0].name or '(any)'} has rules, but none that matches, and there is no default backend"


def _forwarded(action: Forward, targets: tuple[Target, ...]) -> tuple[int | None, str]:
    if not any(share.weight for share in action.shares):
        return 500, "no backend is to get a request"
    if any(target.endpoints for target in targets):
        return None, "" if len(targets) == 1 else "one of several backends, by weight"
    if not targets:
        return 500, "the backend does not count"
    return 503, "; ".join(target.problem or f"{target.backend} has no ready endpoint" for target in targets)


def _targets(shares: tuple[Share, ...], view: View, place: Callable[[str], str]) -> Iterator[Target]:
    whole = sum(share.weight for share in shares)
    for share in shares:
        if share.upstream is None or not share.weight:
            continue
        found = view.config.endpoints[share.upstream]
        ends = tuple(_end(place(ip), ip, port) for ip, port in found.addresses)
        protocol = found.spoken(share.upstream).value
        yield Target(str(share.upstream.backend), protocol, 100 * share.weight / whole, ends, found.problem)


def _end(name: str, ip: str, port: int) -> str:
    at = f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
    return at if name == ip else f"{name} at {at}"


# Fields of a treatment that have words of their own here; of others, name and value are shown.
_TOLD = ("https_only", "rewrite", "request_headers", "response_headers", "mirrors", "timeout", *FIELDS)


def _treated(treatment: Treatment, rule: Rule, asked: Asked) -> Iterator[str]:
    """What the backend sees otherwise than it was sent, and how long it may take."""
    request, rewrite = asked.request, treatment.rewrite
    path, host = path_seen(rewrite, rule.match.path, request.path), host_seen(rewrite, request)
    if path != request.path:
        yield f"the backend sees path {path}"
    if host != request.authority:
        yield f"the backend sees host {host}"
    if asked.client:
        yield f"the backend sees client {asked.client} in X-Forwarded-For and X-Real-IP"
    for what, change in (("request", treatment.request_headers), ("answer", treatment.response_headers)):
        yield from _changed(what, change)
    for mirror in treatment.mirrors:
        percent = f"{100 * mirror.numerator / mirror.denominator:g} %"
        yield f"a copy of {percent} of the requests goes to {mirror.upstream.backend}"
    if treatment.timeout is not None:
        yield f"answered 504 after {treatment.timeout:g} s"
    yield from demands_of(treatment)
    for field in fields(treatment):
        value = getattr(treatment, field.name)
        if field.name not in _TOLD and value != field.default:
            yield f"{field.name.replace('_', ' ')}: {value}"


def _changed(what: str, change: HeaderChange) -> Iterator[str]:
    yield from (f"the {what} has header {name}: {value}" for name, value in change.set)
    yield from (f"the {what} gets one more header {name}: {value}" for name, value in change.add)
    yield from (f"the {what} loses header {name}" for name in change.remove)


# --- objects that others took it from ---------------------------------------------------------------------------


def _lost(
    asked: Asked, view: View, decision: Decision, entrance: Entrance, alone: Callable[[Object], Routing]
) -> Iterator[Candidate]:
    """Ingresses that would get the request if they were alone, but whose rule is not in the table: an older one says
    the same."""
    seen = {rule.name for host in view.config.routing.tables[entrance.table or ""].hosts for rule in host.rules}
    for ingress in view.ingresses.values():
        routing = alone(ingress)
        own = next((each for each in routing.entrances if each.port == entrance.port and each.table), None)
        found = decide(routing.tables[own.table], asked.request).winner if own and own.table else None
        if found is not None and found.rule.name not in seen:
            yield Candidate(found.host, found.rule, _older(view, found, decision))


def _older(view: View, lost: Candidate, decision: Decision) -> str:
    """Who has taken the place of a rule that is in no table."""
    own = (rule for host in decision.hosts if host.name == lost.host for rule in host.rules)
    other = next((rule for rule in own if rule.match == lost.rule.match), None)
    if other is None:
        return "others' rules for the host go first"
    what = f"host {lost.host or '(any)'} and path {shown_path(lost.rule.match.path)}"
    return f"{other.owner}, which is older, says where {what} goes"
