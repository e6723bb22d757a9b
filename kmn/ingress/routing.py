"""From Ingress objects to a :class:`Routing`: merging, precedence, conflicts. Pure.

Rules, after the API reference and the concept page of Ingress:

- A host without ``*`` goes before a wildcard, a wildcard before rules without a host; a request that matched a host is
  not tried with another one's rules.
- The longest path goes first, and of equal ones ``Exact`` before ``Prefix``. ``Prefix`` compares path elements, so a
  slash at its end says nothing. ``ImplementationSpecific`` is ``Prefix`` here.
- What no path matches goes to ``spec.defaultBackend``: of the oldest Ingress with rules for the host that has one, or
  of the oldest of all that have one.
- Where two Ingresses say different things about one host and path, the older one counts (``creationTimestamp``, then
  namespace and name).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from kmn.ingress.model import (
    ANY_HOST,
    Backend,
    Certificate,
    Entrance,
    Forward,
    Host,
    How,
    Match,
    Owner,
    Problem,
    Routing,
    Rule,
    Share,
    Table,
    Text,
    Upstream,
)
from kmn.k8s.objects import Key, Object, key_of

__all__ = ["routing_of"]

HTTP_PORT, HTTPS_PORT = 80, 443
_ALL_PATHS = Text(How.PREFIX)
_TABLE = "ingress"

# Annotations in these domains are orders to a controller: none is emulated yet.
_CONTROLLERS_DOMAIN = "ingress.kubernetes.io"
# … but these say what is done anyway.
_AS_IT_IS = {
    ("nginx.ingress.kubernetes.io/ssl-redirect", "false"),
    ("nginx.ingress.kubernetes.io/force-ssl-redirect", "false"),
    ("nginx.ingress.kubernetes.io/use-regex", "false"),
    ("nginx.ingress.kubernetes.io/backend-protocol", "HTTP"),
}


def routing_of(ingresses: Iterable[Object]) -> Routing:
    """What the Ingresses of one controller say together."""
    merge = _Merge()
    for ingress in sorted(ingresses, key=_age):
        merge.take(ingress)
    return merge.result()


def _age(ingress: Object) -> tuple[str, Key]:
    return ingress["metadata"].get("creationTimestamp") or "", key_of(ingress)


class _Merge:
    """Ingresses are taken in one after the other, the oldest first."""

    def __init__(self) -> None:
        self._hosts: dict[str, dict[Text, Rule]] = {}
        self._host_defaults: dict[str, Rule] = {}
        self._default: Rule | None = None
        self._certificates: dict[str, Certificate] = {}
        self._problems: list[Problem] = []

    def take(self, ingress: Object) -> None:
        key, spec = key_of(ingress), ingress.get("spec") or {}
        owner = Owner("Ingress", key.namespace, key.name)
        default = None
        if spec.get("defaultBackend") is not None:
            default = self._to_backend(owner, "spec.defaultBackend", _ALL_PATHS, spec["defaultBackend"])
        rules = spec.get("rules") or ()
        for index, rule in enumerate(rules):
            self._rule(owner, f"spec.rules[{index}]", rule, default)
        if default is not None and self._default is None:
            self._default = default
        for index, tls in enumerate(spec.get("tls") or ()):
            self._tls(owner, f"spec.tls[{index}]", tls, [rule.get("host") for rule in rules])
        for name, value in sorted((ingress["metadata"].get("annotations") or {}).items()):
            if name.partition("/")[0].endswith(_CONTROLLERS_DOMAIN) and (name, value) not in _AS_IT_IS:
                self._problem(owner, "NotEmulated", f"annotation {name} is not emulated: it has no effect")

    def result(self) -> Routing:
        names = sorted({*self._hosts, ANY_HOST})
        table = Table(tuple(Host(name, tuple(self._rules_of(name))) for name in names))
        certificates = tuple(self._certificates.values())
        entrances = (Entrance(HTTP_PORT, _TABLE), Entrance(HTTPS_PORT, _TABLE, tls=True, certificates=certificates))
        return Routing(entrances, {_TABLE: table}, tuple(self._problems))

    def _rules_of(self, host: str) -> Iterator[Rule]:
        yield from sorted(self._hosts.get(host, {}).values(), key=_precedence)
        default = self._host_defaults.get(host, self._default)
        if default is not None:
            yield default

    def _rule(self, owner: Owner, at: str, rule: dict[str, Any], default: Rule | None) -> None:
        name = (rule.get("host") or ANY_HOST).lower()
        host = self._hosts.setdefault(name, {})
        if default is not None:
            self._host_defaults.setdefault(name, default)
        paths = (rule.get("http") or {}).get("paths") or ()
        for index, path in enumerate(paths):
            self._path(owner, f"{at}.http.paths[{index}]", name, host, path)

    def _path(self, owner: Owner, at: str, host: str, rules: dict[Text, Rule], path: dict[str, Any]) -> None:
        text, exact = path.get("path") or "/", path["pathType"] == "Exact"
        if "?" in text or "#" in text:
            self._problem(
                owner, "Rejected", f'{at}.path: "{text}": no path of a request has "?" or "#" in it: remove it'
            )
            return
        wanted = Text(How.EXACT, text) if exact else Text(How.PREFIX, text.rstrip("/"))
        found = self._to_backend(owner, f"{at}.backend", wanted, path["backend"])
        if found is None:
            return
        earlier = rules.setdefault(wanted, found._replace(field=at))
        if earlier.action != found.action:
            where = f"{host or 'any host'}{wanted.value or '/'} ({'Exact' if exact else 'Prefix'})"
            whose = "the same Ingress" if earlier.owner == owner else f"{earlier.owner}, which is older,"
            backend = next(earlier.upstreams()).backend
            self._problem(owner, "Conflict", f"{at}: {where}: {whose} sends it to {backend} already")

    def _to_backend(self, owner: Owner, at: str, path: Text, backend: dict[str, Any]) -> Rule | None:
        """The rule that sends what has the path to a backend."""
        service = backend.get("service")
        if service is None:
            resource = backend.get("resource") or {}
            what = f"{resource.get('kind', '')} {resource.get('name', '')}"
            self._problem(owner, "NotEmulated", f"{at}.resource: {what}: only Services are served: name a service")
            return None
        port = service.get("port") or {}
        found = Backend(owner.namespace, service["name"], port.get("number") or port.get("name") or "")
        return Rule(Match(path), Forward((Share(Upstream(found)),)), owner, at)

    def _tls(self, owner: Owner, at: str, tls: dict[str, Any], rule_hosts: list[str | None]) -> None:
        secret = tls.get("secretName")
        if not secret:
            return  # the default certificate is what the API asks for
        for host in tls.get("hosts") or [host for host in rule_hosts if host]:
            found = Certificate(host.lower(), Key(owner.namespace, secret), owner)
            earlier = self._certificates.setdefault(found.host, found)
            if earlier.secret != found.secret:
                whose = f"{earlier.owner}, which is older, has the certificate of Secret {earlier.secret}"
                self._problem(owner, "Conflict", f"{at}: {host}: {whose}")

    def _problem(self, owner: Owner, reason: str, message: str) -> None:
        self._problems.append(Problem(owner, reason, f"{owner}: {message}"))


def _precedence(rule: Rule) -> tuple[bool, int, str]:
    """Only one exact path can match, and it is as long as the request's: exact ones may all go first."""
    path = rule.match.path
    return path.how is not How.EXACT, -len(path.value), path.value
