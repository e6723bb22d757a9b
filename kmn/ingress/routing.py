"""From Ingresses that have been read to a :class:`Routing`: merging, precedence, conflicts. Pure.

Rules, after the API reference and the concept page of Ingress:

- A host without ``*`` goes before a wildcard, a wildcard before rules without a host; a request that matched a host is
  not tried with another one's rules.
- The longest path goes first, and of equal ones ``Exact`` before ``Prefix``. ``Prefix`` compares path elements, so a
  slash at its end says nothing. ``ImplementationSpecific`` is ``Prefix`` here.
- What no path matches goes to ``spec.defaultBackend``: of the oldest Ingress with rules for the host that has one, or
  of the oldest of all that have one.
- Where two Ingresses say different things about one host and path, the older one counts (``creationTimestamp``, then
  namespace and name).

Controllers go further by annotations, each in its own way: that is what ``dialects`` are for, made of the parts here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from kmn.ingress.model import (
    ANY_HOST,
    Certificate,
    Entrance,
    Forward,
    Host,
    How,
    Match,
    Problem,
    Routing,
    Rule,
    Share,
    Table,
    Text,
    Upstream,
)
from kmn.ingress.reading import Claim, Reading, Shown, literal_path, read_all, unknown_annotations
from kmn.k8s.objects import Key, Object
from kmn.k8s.resources import Resource

__all__ = ["TABLE", "Dialect", "Find", "Merge", "both_entrances", "certificates_of", "plain_routing", "precedence"]

HTTP_PORT, HTTPS_PORT = 80, 443
TABLE = "ingress"

Find: TypeAlias = Callable[[Resource, Key], Object | None]
"""Looks an object up. Of namespaces' objects: Services, Secrets, ConfigMaps; of the cluster's: IngressClasses."""

Dialect: TypeAlias = Callable[[Iterable[Object], Find], Routing]
"""What the Ingresses of one controller say together, with its annotations."""


def plain_routing(ingresses: Iterable[Object], find: Find) -> Routing:
    """Of a controller whose annotations nobody knows: they are named by problems."""
    del find  # a spec leads to nothing but Services, by their names
    merge = Merge(_plain_rule)
    for reading in read_all(ingresses):
        merge.take(reading)
        merge.problems += unknown_annotations(reading)
    return merge.result()


def _plain_rule(claim: Claim) -> Rule:
    return Rule(Match(literal_path(claim)), Forward((Share(Upstream(claim.backend)),)), claim.owner, claim.field)


class Merge:
    """Readings are taken in one after the other, the oldest first. ``rule_of`` makes the rule of a claim, or raises
    ValueError, naming the field, for one that is rejected."""

    def __init__(self, rule_of: Callable[[Claim], Rule]) -> None:
        self._rule_of = rule_of
        self._hosts: dict[str, dict[Text, Rule]] = {}
        self._host_defaults: dict[str, Rule] = {}
        self._default: Rule | None = None
        self._shown: list[Shown] = []
        self.problems: list[Problem] = []

    def take(self, reading: Reading) -> None:
        """Rules of hosts that others have rules for, too, are put together."""
        self.problems += reading.problems
        for host in reading.hosts:
            self._hosts.setdefault(host, {})
        for claim in reading.claims:
            self._claim(reading, claim)
        if reading.default is not None:
            default = self._rule_of(reading.default)
            for host in reading.hosts:
                self._host_defaults.setdefault(host, default)
            self._default = self._default or default
        self._shown += reading.shown

    def _claim(self, reading: Reading, claim: Claim) -> None:
        try:
            rule = self._rule_of(claim)
        except ValueError as error:
            self.problems.append(reading.problem("Rejected", str(error)))
            return
        path = rule.match.path
        earlier = self._hosts[claim.host].setdefault(path, rule)
        if earlier.action != rule.action:
            where = f"{claim.host or 'any host'}{path.value or '/'} ({path.how.value.capitalize()})"
            whose = "the same Ingress" if earlier.owner == claim.owner else f"{earlier.owner}, which is older,"
            message = f"{claim.field}: {where}: {whose} sends it to {next(earlier.upstreams()).backend} already"
            self.problems.append(reading.problem("Conflict", message))

    def hosts(self) -> tuple[Host, ...]:
        """In the order in which they are matched, each with its rules in theirs."""
        found = []
        for name in sorted({*self._hosts, ANY_HOST}):
            rules = sorted(self._hosts.get(name, {}).values(), key=precedence)
            default = self._host_defaults.get(name, self._default)
            found.append(Host(name, (*rules, default) if default is not None else tuple(rules)))
        return tuple(found)

    def result(self) -> Routing:
        """The same on ports 80 and 443."""
        certificates, problems = certificates_of(self._shown)
        entrances = both_entrances(certificates)
        return Routing(entrances, {TABLE: Table(self.hosts())}, (*self.problems, *problems))


def precedence(rule: Rule) -> tuple[bool, int, str]:
    """Only one exact path can match, and it is as long as the request's: exact ones may all go first."""
    path = rule.match.path
    return path.how is not How.EXACT, -len(path.value), path.value


def certificates_of(shown: Iterable[Shown]) -> tuple[tuple[Certificate, ...], tuple[Problem, ...]]:
    """Each host once; the first one counts, and the others are told."""
    found: dict[str, Certificate] = {}
    problems = []
    for each in shown:
        if each.secret is None:
            continue  # the default certificate is what the API asks for
        wanted = Certificate(each.host.lower(), each.secret, each.owner)
        earlier = found.setdefault(wanted.host, wanted)
        if earlier.secret != wanted.secret:
            whose = f"{earlier.owner}, which is older, has the certificate of Secret {earlier.secret}"
            problems.append(Problem(each.owner, "Conflict", f"{each.owner}: {each.field}: {each.host}: {whose}"))
    return tuple(found.values()), tuple(problems)


def both_entrances(certificates: tuple[Certificate, ...]) -> tuple[Entrance, ...]:
    """The table on port 80, and with TLS on port 443."""
    return Entrance(HTTP_PORT, TABLE), Entrance(HTTPS_PORT, TABLE, tls=True, certificates=certificates)
