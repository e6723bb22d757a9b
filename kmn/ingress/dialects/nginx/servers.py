"""Servers and locations, as ingress-nginx makes them of all its Ingresses: hosts, their rules in order, entrances.

Rules beyond the API's (``internal/ingress/controller``, and the template of nginx.conf):

- Where one path of a host is rewritten or ``use-regex``, all paths of that host are regular expressions for the
  beginning of a path, without case, the longest first: also those of ``Exact`` ones.
- A host has TLS when some Ingress names it in ``spec.tls``, and then redirects from http by default.
- ``return`` (redirects, and what is denied) and the answers to preflight requests come before everything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from kmn.ingress.dialects.nginx.annotations import DOMAIN, Annotations, Refused
from kmn.ingress.dialects.nginx.canary import with_canary
from kmn.ingress.dialects.nginx.configmap import Defaults, defaults_of
from kmn.ingress.dialects.nginx.settings import Settings, settings_of
from kmn.ingress.model import (
    ANY_HOST,
    Forward,
    HeaderChange,
    Host,
    How,
    Match,
    Owner,
    Problem,
    Protocol,
    Redirect,
    Rewrite,
    Routing,
    Rule,
    Share,
    Stream,
    Table,
    Text,
    Treatment,
    Upstream,
)
from kmn.ingress.reading import Claim, Reading, Shown, literal_path, read_all, unknown_annotations
from kmn.ingress.regexes import at_start, checked, groups_of
from kmn.ingress.routing import TABLE, Find, both_entrances, certificates_of, precedence
from kmn.k8s.objects import Object

__all__ = ["routing_of"]

_WWW = "www."


def routing_of(ingresses: Iterable[Object], find: Find) -> Routing:
    """What the Ingresses of the controller say together."""
    defaults, problems = defaults_of(find)
    servers = _Servers(defaults)
    plain: Settings | None = None  # what holds without annotations: most Ingresses have none
    for reading in read_all(ingresses):
        given = Annotations(reading)
        if plain is not None and not given:
            servers.take(reading, replace(plain, owner=reading.owner))
            servers.problems += unknown_annotations(reading, DOMAIN)
            continue
        try:
            settings = settings_of(reading.owner, given, defaults, find)
        except Refused as error:
            servers.problems.append(reading.problem("Rejected", str(error)))
            continue
        plain = plain if given else settings
        servers.take(reading, settings)
        servers.problems += [*given.problems, *given.rest(), *unknown_annotations(reading, DOMAIN)]
    return servers.result(problems)


class _Location(NamedTuple):
    """A path of a host, and what its Ingress says of it."""

    claim: Claim
    settings: Settings

    @property
    def rewrites(self) -> bool:
        return self.settings.rewrite_target not in (None, self.claim.path)

    @property
    def place(self) -> tuple[str, bool]:
        """What only one Ingress of a host can have."""
        exact = self.claim.path_type == "Exact"
        return (self.claim.path if exact else self.claim.path.rstrip("/")), exact

    def problem(self, reason: str, message: str) -> Problem:
        return Problem(self.claim.owner, reason, f"{self.claim.owner}: {self.claim.field}: {message}")


class _Servers:
    """Readings are taken in one after the other, the oldest first."""

    def __init__(self, defaults: Defaults) -> None:
        self._defaults = defaults
        self._hosts: dict[str, dict[tuple[str, bool], _Location]] = {}
        self._host_defaults: dict[str, _Location] = {}
        self._default: _Location | None = None
        self._canaries: dict[str, dict[tuple[str, bool], _Location]] = {}
        self._settings: dict[str, list[Settings]] = {}  # of all Ingresses with rules for a host
        self._shown: list[Shown] = []
        self.problems: list[Problem] = []

    def take(self, reading: Reading, settings: Settings) -> None:
        self.problems += reading.problems
        self._shown += reading.shown
        if settings.canary is not None:
            for claim in reading.claims:
                self._file(self._canaries, _Location(claim, settings))
            return
        for host in reading.hosts:
            self._hosts.setdefault(host, {})
            self._settings.setdefault(host, []).append(settings)
        for claim in reading.claims:
            self._file(self._hosts, _Location(claim, settings))
        if reading.default is not None:
            default = _Location(reading.default, settings)
            for host in reading.hosts:
                self._host_defaults.setdefault(host, default)
            self._default = self._default or default

    def _file(self, hosts: dict[str, dict[tuple[str, bool], _Location]], location: _Location) -> None:
        earlier = hosts.setdefault(location.claim.host, {}).setdefault(location.place, location)
        if earlier is not location and earlier.claim.backend != location.claim.backend:
            mine, theirs = location.claim, earlier.claim
            kind = "Exact" if mine.path_type == "Exact" else "Prefix"
            whose = "the same Ingress" if theirs.owner == mine.owner else f"{theirs.owner}, which is older,"
            where = f"{mine.host or 'any host'}{mine.path} ({kind})"
            self.problems.append(location.problem("Conflict", f"{where}: {whose} sends it to {theirs.backend} already"))

    def result(self, problems: Iterable[Problem]) -> Routing:
        """Hosts, aliases and redirects between them; TLS that is passed through."""
        self._check_canaries()
        hosts = {name: tuple(self._server(name)) for name in sorted({*self._hosts, ANY_HOST})}
        for name, settings in self._settings.items():
            for alias in dict.fromkeys(alias for each in settings for alias in each.aliases):
                hosts.setdefault(alias, hosts[name])
        for name, settings in self._settings.items():
            asked = next((each for each in settings if each.from_to_www), None)
            if asked is not None and name != ANY_HOST and not name.startswith("*."):
                other = name.removeprefix(_WWW) if name.startswith(_WWW) else f"{_WWW}{name}"
                hosts.setdefault(other, (self._elsewhere(asked.owner, name),))
        table = Table(tuple(Host(name, rules) for name, rules in hosts.items()))
        streams = tuple(self._streams())
        passed = {host for stream in streams for host in stream.hosts}
        certificates, conflicts = certificates_of(self._shown)
        plain, tls = both_entrances(tuple(each for each in certificates if each.host not in passed))
        entrances = tuple(
            each._replace(
                proxy_protocol=self._defaults.proxy_protocol, trusted_hops=int(self._defaults.forwarded_headers)
            )
            for each in (plain, tls._replace(streams=streams))
        )  # fmt: skip
        return Routing(entrances, {TABLE: table}, (*problems, *self.problems, *conflicts))

    def _elsewhere(self, owner: Owner, host: str) -> Rule:
        redirect = Redirect(self._defaults.redirect_code, host=host)
        return Rule(Match(), redirect, owner, "from-to-www-redirect")

    # --- rules of one host

    def _server(self, host: str) -> Iterator[Rule]:
        locations = list(self._hosts.get(host, {}).values())
        default = self._host_defaults.get(host, self._default)
        everything = [*locations, *([default] if default else [])]
        for asked in (each.settings for each in everything if each.settings.app_root):
            root = Redirect(302, path=asked.app_root, query=False)
            yield Rule(Match(Text(How.EXACT, "/")), root, asked.owner, "app-root")
            break
        tls = self._has_tls(host)
        regex = any(each.settings.use_regex or each.rewrites for each in locations)
        rules: list[tuple[Rule, _Location]] = []
        for location in locations:
            try:
                path = _pattern(location) if regex else literal_path(location.claim)
            except ValueError as error:
                self.problems.append(
                    Problem(location.claim.owner, "Rejected", f"{location.claim.owner}: {error}")
                )  # fmt: skip
                continue
            rules.append((self._rule(location, path, tls=tls), location))
        order = _by_length if regex else _by_path
        for rule, location in sorted(rules, key=order):
            yield from self._shared(rule, location)
        if default is not None:
            yield self._rule(default, Text(How.PREFIX), tls=tls)

    def _rule(self, location: _Location, path: Text, *, tls: bool) -> Rule:
        claim, settings = location
        if settings.answer is not None:
            return Rule(Match(path), settings.answer, claim.owner, claim.field)
        upstream = settings.upstream_of(claim.backend)
        treatment = self._treatment(location, path, tls=tls)
        return Rule(Match(path), Forward((Share(upstream),)), claim.owner, claim.field, treatment)

    def _treatment(self, location: _Location, path: Text, *, tls: bool) -> Treatment:
        settings, found = location.settings, location.settings.treatment
        if settings.force_ssl_redirect or (settings.ssl_redirect and tls):
            found = replace(found, https_only=self._defaults.redirect_code)
        if location.rewrites and path.how is How.REGEX:
            substitution = _substitution(settings.rewrite_target or "", groups_of(path.value))
            found = replace(found, rewrite=(found.rewrite or Rewrite())._replace(substitution=substitution))
            if settings.forwarded_prefix is not None:
                header = HeaderChange(set=(("X-Forwarded-Prefix", settings.forwarded_prefix),))
                found = replace(found, request_headers=header)
        at = "/" if path.how is How.REGEX else location.claim.path
        return replace(found, session=settings.session_at(at), hash_on=settings.hash_on_at(at))

    # --- canaries

    def _check_canaries(self) -> None:
        for host, canaries in self._canaries.items():
            for place, canary in canaries.items():
                if place not in self._hosts.get(host, {}):
                    why = "a canary counts only where another Ingress has the same host and path"
                    self.problems.append(canary.problem("Rejected", f"{host}{canary.claim.path}: {why}"))

    def _shared(self, rule: Rule, location: _Location) -> Iterator[Rule]:
        canary = self._canaries.get(location.claim.host, {}).get(location.place)
        if canary is None or canary.settings.canary is None or not isinstance(rule.action, Forward):
            yield rule
            return
        own = canary.settings.balancing
        upstream = location.settings.upstream_of(canary.claim.backend)
        if not rule.treatment.hash_on:
            upstream = upstream._replace(balance=own.balance)
            rule = rule._replace(treatment=replace(rule.treatment, hash_on=canary.settings.hash_on_at("/")))
        kept = location.settings.balancing.cookie or own.cookie
        if kept is not None:
            kept = kept._replace(path=kept.path or "/") if own.keeps_canaries else None
        yield from with_canary(rule, canary.settings.canary, upstream, kept)

    # --- TLS

    def _has_tls(self, host: str) -> bool:
        names = {each.host.lower() for each in self._shown}
        return host in names or f"*.{host.partition('.')[2]}" in names

    def _streams(self) -> Iterator[Stream]:
        """Connections of a host whose Ingress asks for it go to the backend of its path /."""
        for host, locations in self._hosts.items():
            location = locations.get(("", False))
            if host == ANY_HOST or not any(each.passthrough for each in self._settings[host]):
                continue
            if location is None:
                owner = next(each.owner for each in self._settings[host] if each.passthrough)
                why = "a host that TLS is passed through for needs a path / of type Prefix"
                self.problems.append(Problem(owner, "Rejected", f"{owner}: annotation {DOMAIN}/ssl-passthrough: {why}"))
                continue
            upstream = Upstream(location.claim.backend, Protocol.TCP)
            yield Stream((host,), (Share(upstream),), location.claim.owner, location.claim.field)


def _pattern(location: _Location) -> Text:
    """Raises ValueError for an expression that cannot be matched."""
    try:
        pattern = checked(location.claim.path)
    except ValueError as error:
        raise ValueError(f'{location.claim.field}.path: "{location.claim.path}": {error}') from None
    return Text(How.REGEX, at_start(pattern), ignore_case=True)


def _substitution(target: str, groups: int) -> str:
    """``$1`` is the first group; one that there is not is nothing."""
    found = []
    for index, part in enumerate(target.split("$")):
        if index and part[:1].isdigit():
            found.append(f"\\{part[0]}{part[1:]}" if int(part[0]) <= groups else part[1:])
        else:
            found.append(part if not index else f"${part}")
    return "".join(found)


def _by_length(each: tuple[Rule, _Location]) -> tuple[int, str]:
    path = each[1].claim.path
    return -len(path), path


def _by_path(each: tuple[Rule, _Location]) -> tuple[bool, int, str]:
    return precedence(each[0])
