"""All that a load balancer of class ``alb`` routes: its listeners, and on each the rules of Ingresses that do.

Rules are tried in the order of the Ingresses in their group, and of rules and paths in an Ingress; of the paths of one
rule ``Exact`` ones go first, then ``Prefix``, the longest first, then the others. Nothing else is put in order: with
hosts and paths as patterns, the first one that fits counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from kmn.ingress.dialects.alb.actions import action_of, to_https
from kmn.ingress.dialects.alb.annotations import Notes, Wrong, not_emulated, owner_of
from kmn.ingress.dialects.alb.conditions import match_of, path_patterns
from kmn.ingress.dialects.alb.groups import Group, Listener, listen_ports
from kmn.ingress.dialects.alb.targets import target_of
from kmn.ingress.model import (
    ANY_HOST,
    Answer,
    Backend,
    Certificate,
    Cookie,
    Entrance,
    Forward,
    Host,
    Manner,
    Match,
    Owner,
    Problem,
    Routing,
    Rule,
    Share,
    Table,
    Treatment,
    Upstream,
)
from kmn.k8s.objects import Key, Object, namespace_of

__all__ = ["routing_of"]

_USE_ANNOTATION = "use-annotation"
_MANNER = Manner(keeps_forwarded_for=True)
_ORDER = {"Exact": 0, "Prefix": 1}


def routing_of(group: Group, services: Mapping[Key, Object]) -> Routing:
    """Of one load balancer; ``services`` are all that there are."""
    builder = _Builder(group, services)
    tables = {_table(each): builder.table(each) for each in group.listeners}
    entrances = tuple(
        Entrance(each.port, _table(each), tls=each.protocol == "HTTPS", certificates=tuple(builder.certificates(each)))
        for each in group.listeners
    )
    for ingress in group.members:
        builder.problems += not_emulated(ingress)
        if Notes(ingress).text("certificate-arn"):
            builder.ignored(ingress, "certificate-arn: there is no AWS: certificates come from Secrets of spec.tls")
    return Routing(entrances, tables, tuple(dict.fromkeys([*group.problems, *builder.problems])))


def _table(listener: Listener) -> str:
    return f"port-{listener.port}"


class _Builder:
    """Collects problems while tables are made."""

    def __init__(self, group: Group, services: Mapping[Key, Object]) -> None:
        self._group = group
        self._services = services
        self._treatment = Treatment(idle_timeout=group.idle_timeout)
        self.problems: list[Problem] = []

    def ignored(self, ingress: Object, message: str) -> None:
        """Tell of something that is not emulated."""
        notes = Notes(ingress)
        notes.ignored(message)
        self.problems += notes.problems

    def table(self, listener: Listener) -> Table:
        """The rules of one listener: all of them for any host, as hosts are conditions like others."""
        rules = []
        if self._group.redirect_to is not None and listener.protocol == "HTTP":
            said = next(each for each in self._group.members if Notes(each).text("ssl-redirect"))
            field = "annotation ssl-redirect"
            rules.append(Rule(Match(), to_https(self._group.redirect_to), owner_of(said), field, self._treatment))
        else:
            members = [each for each in self._group.members if listen_ports(Notes(each)).get(listener.port)]
            rules += [rule for ingress in members for rule in self._rules(ingress, listener)]
            rules += self._default(members, listener)
        return Table((Host(ANY_HOST, tuple(rules)),), manner=_MANNER)

    def certificates(self, listener: Listener) -> Iterator[Certificate]:
        """Of hosts in ``spec.tls``, the first Ingress of the group that has one for a host."""
        found: dict[str, Certificate] = {}
        for ingress in self._group.members if listener.protocol == "HTTPS" else ():
            spec = ingress["spec"]
            for tls in spec.get("tls") or ():
                hosts = tls.get("hosts") or [rule["host"] for rule in spec.get("rules") or () if rule.get("host")]
                for host in hosts if tls.get("secretName") else ():
                    secret = Key(namespace_of(ingress), tls["secretName"])
                    found.setdefault(host.lower(), Certificate(host.lower(), secret, owner_of(ingress)))
        yield from found.values()

    def _rules(self, ingress: Object, listener: Listener) -> Iterator[Rule]:
        for number, rule in enumerate(ingress["spec"].get("rules") or ()):
            paths = list(enumerate((rule.get("http") or {}).get("paths") or ()))
            for index, path in sorted(paths, key=lambda each: _precedence(each[1])):
                field = f"spec.rules[{number}].http.paths[{index}]"
                yield from self._rule(ingress, listener, field, rule.get("host") or "", path)

    def _rule(self, ingress: Object, listener: Listener, field: str, host: str, path: dict[str, Any]) -> Iterator[Rule]:
        notes = Notes(ingress)
        try:
            patterns = path_patterns(path.get("path") or "", path["pathType"])
        except Wrong as error:
            notes.failed(f"{field}.path: {error}")
            patterns = None
        service = path["backend"].get("service")
        if service is None:
            notes.ignored(f"{field}.backend.resource: only Services are served: name a service")
        elif patterns is not None:
            match = match_of(host, patterns, notes, service["name"])
            if match is not None:
                yield self._to(ingress, listener, f"{field}.backend", match, service, notes)._replace(field=field)
        self.problems += notes.problems

    def _default(self, members: Iterable[Object], listener: Listener) -> Iterator[Rule]:
        taken: Owner | None = None
        for ingress in members:
            backend = ingress["spec"].get("defaultBackend")
            if backend is None:
                continue
            notes = Notes(ingress)
            if taken is not None:
                notes.failed(f"spec.defaultBackend: {taken} of the group has one already, which counts")
            elif backend.get("service") is None:
                notes.ignored("spec.defaultBackend.resource: only Services are served: name a service")
            else:
                taken = owner_of(ingress)
                yield self._to(ingress, listener, "spec.defaultBackend", Match(), backend["service"], notes)
            self.problems += notes.problems

    def _to(
        self, ingress: Object, listener: Listener, field: str, match: Match, service: dict[str, Any], notes: Notes
    ) -> Rule:
        port = service.get("port") or {}
        cookies: list[Cookie] = []
        upstream = self._upstreams(ingress, cookies)
        if port.get("name") == _USE_ANNOTATION:
            action = action_of(notes, service["name"], listener, upstream) or Answer(503)
        else:
            action = Forward((Share(upstream(service["name"], port.get("number") or port.get("name") or "")),))
        treatment = replace(self._treatment, session=cookies[0]) if cookies else self._treatment
        return Rule(match, action, owner_of(ingress), field, treatment)

    def _upstreams(self, ingress: Object, cookies: list[Cookie]) -> Callable[[str, int | str], Upstream]:
        """``cookies`` are told of those of target groups that are asked for."""

        def find(name: str, port: int | str) -> Upstream:
            service = self._services.get(Key(namespace_of(ingress), name))
            notes = Notes(ingress, service)
            found = target_of(notes, Backend(namespace_of(ingress), name, port), service)
            self.problems += notes.problems
            if found.cookie is not None:
                cookies.append(found.cookie)
            return found.upstream

        return find


def _precedence(path: dict[str, Any]) -> tuple[int, int]:
    kind = path["pathType"]
    return _ORDER.get(kind, 2), -len(path.get("path") or "") if kind == "Prefix" else 0
