"""Which rule a request goes by: a second reading of the model, beside the one that Envoy is given. Pure.

What :mod:`kmn.ingress.envoy.routes` writes for Envoy is here decided in Python, and the rules that do not get the
request are told why. Regular expressions are Python's: of what RE2 knows they mean the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kmn.ingress.model import ANY_HOST, Condition, Host, How, Match, Rule, Table, Text

__all__ = ["Candidate", "Decision", "Request", "decide", "fits", "named", "shown_path", "unfulfilled"]


class Request(NamedTuple):
    """``host`` is what the client asks for, a port may be behind it. ``path`` and ``query`` (what follows the first
    question mark) are as they are sent."""

    host: str
    path: str = "/"
    method: str = "GET"
    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def target(self) -> str:
        """Path and query."""
        return f"{self.path}?{self.query}" if self.query else self.path

    @property
    def parameters(self) -> list[tuple[str, str]]:
        """Of the query."""
        parts = (each.partition("=") for each in self.query.split("&") if each)
        return [(name, value) for name, _, value in parts]

    @property
    def authority(self) -> str:
        """The host as it is handed on: a dot at the end of its name is lost."""
        return re.sub(r"\.(:\d+)?$", r"\1", self.host)

    @property
    def name(self) -> str:
        """The host as it is looked up: in lower case and without a port."""
        return re.sub(r":\d+$", "", self.authority).lower()


class Candidate(NamedTuple):
    """A rule that could have got the request, of a host; ``why`` it did not, "" for the one that does."""

    host: str
    rule: Rule
    why: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """``hosts`` are those that fit, the one that counts first; ``winner`` None: 404."""

    hosts: tuple[Host, ...]
    winner: Candidate | None
    others: tuple[Candidate, ...]


def decide(table: Table, request: Request) -> Decision:
    """Look a request up."""
    hosts = sorted((host for host in table.hosts if fits(host, request.name)), key=_specific, reverse=True)
    if not hosts:
        return Decision((), None, ())
    own, *less = hosts
    winner = next((rule for rule in own.rules if not unfulfilled(rule.match, request)), None)
    others = {rule.name: Candidate(own.name, rule, why) for rule, why in _of_own(own, winner, request)}
    for host in less:
        why = f"{_in_words(own)} is more specific than {_in_words(host)}"
        for rule in host.rules:
            if (winner is None or rule.name != winner.name) and not unfulfilled(rule.match, request):
                others.setdefault(rule.name, Candidate(host.name, rule, why))
    return Decision(tuple(hosts), Candidate(own.name, winner) if winner else None, tuple(others.values()))


# --- hosts ------------------------------------------------------------------------------------------------------


def fits(host: Host, name: str) -> bool:
    """Whether a host's rules are for requests for this name."""
    if host.name == ANY_HOST or not host.name.startswith("*."):
        return host.name in (ANY_HOST, name)
    label = name.removesuffix(host.name[1:])
    return label not in ("", name) and (host.deep or "." not in label)


def named(names: Iterable[str], name: str) -> str | None:
    """The one that TLS for this name goes by: the name itself, else the longest wildcard; one of any depth fits."""
    wildcards = (each for each in names if each.startswith("*.") and name.endswith(each[1:]) and len(name) >= len(each))
    return name if name in names else max(wildcards, key=len, default=None)


def _specific(host: Host) -> tuple[bool, int]:
    return host.name != ANY_HOST and not host.name.startswith("*."), len(host.name)


def _in_words(host: Host) -> str:
    return f"host {host.name}" if host.name else "no host"


# --- rules ------------------------------------------------------------------------------------------------------


def _of_own(host: Host, winner: Rule | None, request: Request) -> Iterator[tuple[Rule, str]]:
    """Why the other rules of the host that counts do not get the request."""
    for rule in host.rules:
        if rule is not winner:
            missing = unfulfilled(rule.match, request)
            why = "; ".join(missing) if missing or winner is None else _earlier(winner.match, rule.match)
            yield rule, why


def _earlier(winner: Match, other: Match) -> str:
    """Both fit."""
    one, two = winner.path, other.path
    if one.how is not two.how and one.how is How.EXACT:
        return f"{shown_path(one)} goes before {shown_path(two)}"
    if len(one.value) > len(two.value):
        return f"{shown_path(one)} is longer than {shown_path(two)}"
    if _demands(winner) > _demands(other):
        return "a rule that asks for more goes first"
    return "a rule before it fits as well"


def _demands(match: Match) -> int:
    return bool(match.methods) + len(match.headers) + len(match.query)


def unfulfilled(match: Match, request: Request) -> list[str]:
    """What a request lacks, in words; nothing: it matches."""
    found = []
    if not _path_fits(match.path, request.path):
        found.append(f"the path is not {shown_path(match.path)}")
    if match.methods and request.method not in match.methods:
        found.append(f"the method is not {' or '.join(match.methods)}")
    headers = [(name.lower(), value) for name, value in request.headers]
    pseudo = {"host": request.authority, ":authority": request.authority, ":path": request.target}
    for condition in match.headers:
        name = condition.name.lower()
        own = pseudo.get(name)
        values = [own] if own is not None else [value for key, value in headers if key == name]
        if not _fulfils(condition, values):
            found.append(_wanted("header", condition, values))
    for condition in match.query:
        values = [value for key, value in request.parameters if key == condition.name][:1]
        if not _fulfils(condition, values):
            found.append(_wanted("query parameter", condition, values))
    return found


def _path_fits(path: Text, sent: str) -> bool:
    if path.how is not How.PREFIX:
        return _equals(path, sent)
    wanted = path.value
    if path.ignore_case:
        wanted, sent = wanted.lower(), sent.lower()
    return sent.startswith("/") and (sent == wanted or sent.startswith(f"{wanted}/"))


def _fulfils(condition: Condition, values: Sequence[str]) -> bool:
    """Of several values one is enough. What is not there has none to compare, and is empty to a negated condition."""
    if condition.text.how is How.PRESENT:
        return bool(values) is not condition.negated
    if condition.negated:
        return not any(_equals(condition.text, value) for value in values or ("",))
    return any(_equals(condition.text, value) for value in values)


def _equals(text: Text, value: str) -> bool:
    wanted = text.value
    if text.how is How.REGEX:
        return re.fullmatch(wanted, value, re.IGNORECASE if text.ignore_case else 0) is not None
    if text.ignore_case:
        wanted, value = wanted.lower(), value.lower()
    return value == wanted if text.how is How.EXACT else value.startswith(wanted)


def _wanted(what: str, condition: Condition, values: Sequence[str]) -> str:
    text, unlike = condition.text, "not " if condition.negated else ""
    has = f"is {','.join(values)!r}" if values else "is missing"
    wanted = {
        How.PRESENT: "absent" if condition.negated else "present",
        How.REGEX: f"{unlike}like {text.value}",
        How.PREFIX: f"{unlike}beginning with {text.value!r}",
        How.EXACT: f"{unlike}{text.value!r}",
    }[text.how]
    return f"{what} {condition.name} {has}, wanted: {wanted}"


def shown_path(path: Text) -> str:
    """For people."""
    case = ", any case" if path.ignore_case else ""
    return f"{path.value or '/'} ({path.how.value.capitalize()}{case})"
