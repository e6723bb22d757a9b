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

from collections.abc import Iterable
from typing import Any

from kmn.ingress.model import ANY_HOST, Backend, Certificate, Host, Problem, Routing, Rule
from kmn.k8s.objects import Key, Object, key_of

__all__ = ["routing_of"]

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
        self._hosts: dict[str, dict[tuple[str, bool], Rule]] = {}
        self._host_defaults: dict[str, Backend] = {}
        self._default: Backend | None = None
        self._certificates: dict[str, Certificate] = {}
        self._uses: dict[tuple[Key, Backend], None] = {}
        self._problems: list[Problem] = []

    def take(self, ingress: Object) -> None:
        key, spec = key_of(ingress), ingress.get("spec") or {}
        default = None
        if spec.get("defaultBackend") is not None:
            default = self._backend(key, "spec.defaultBackend", spec["defaultBackend"])
        rules = spec.get("rules") or ()
        for index, rule in enumerate(rules):
            self._rule(key, f"spec.rules[{index}]", rule, default)
        if default is not None and self._default is None:
            self._default = default
        for index, tls in enumerate(spec.get("tls") or ()):
            self._tls(key, f"spec.tls[{index}]", tls, [rule.get("host") for rule in rules])
        for name, value in sorted((ingress["metadata"].get("annotations") or {}).items()):
            if name.partition("/")[0].endswith(_CONTROLLERS_DOMAIN) and (name, value) not in _AS_IT_IS:
                self._problem(key, "NotEmulated", f"annotation {name} is not emulated: it has no effect")

    def result(self) -> Routing:
        hosts = [
            Host(name, tuple(sorted(rules.values(), key=_precedence)), self._host_defaults.get(name, self._default))
            for name, rules in sorted(self._hosts.items())
        ]
        certificates = tuple(self._certificates.values())
        return Routing(tuple(hosts), self._default, certificates, tuple(self._uses), tuple(self._problems))

    def _rule(self, key: Key, at: str, rule: dict[str, Any], default: Backend | None) -> None:
        name = (rule.get("host") or ANY_HOST).lower()
        host = self._hosts.setdefault(name, {})
        if default is not None:
            self._host_defaults.setdefault(name, default)
        paths = (rule.get("http") or {}).get("paths") or ()
        for index, path in enumerate(paths):
            self._path(key, f"{at}.http.paths[{index}]", name, host, path)

    def _path(self, key: Key, at: str, host: str, rules: dict[tuple[str, bool], Rule], path: dict[str, Any]) -> None:
        backend = self._backend(key, f"{at}.backend", path["backend"])
        if backend is None:
            return
        text, exact = path.get("path") or "/", path["pathType"] == "Exact"
        if "?" in text or "#" in text:
            self._problem(key, "Rejected", f'{at}.path: "{text}": no path of a request has "?" or "#" in it: remove it')
            return
        found = Rule(text if exact else text.rstrip("/"), exact, backend, key)
        earlier = rules.setdefault((found.path, exact), found)
        if earlier.backend != backend:
            where = f"{host or 'any host'}{found.path or '/'} ({'Exact' if exact else 'Prefix'})"
            owner = "the same Ingress" if earlier.owner == key else f"Ingress {earlier.owner}, which is older,"
            self._problem(key, "Conflict", f"{at}: {where}: {owner} sends it to {earlier.backend} already")

    def _backend(self, key: Key, at: str, backend: dict[str, Any]) -> Backend | None:
        service = backend.get("service")
        if service is None:
            resource = backend.get("resource") or {}
            what = f"{resource.get('kind', '')} {resource.get('name', '')}"
            self._problem(key, "NotEmulated", f"{at}.resource: {what}: only Services are served: name a service")
            return None
        port = service.get("port") or {}
        found = Backend(key.namespace, service["name"], port.get("number") or port.get("name") or "")
        self._uses[key, found] = None
        return found

    def _tls(self, key: Key, at: str, tls: dict[str, Any], rule_hosts: list[str | None]) -> None:
        secret = tls.get("secretName")
        if not secret:
            return  # the default certificate is what the API asks for
        for host in tls.get("hosts") or [host for host in rule_hosts if host]:
            found = Certificate(host.lower(), Key(key.namespace, secret), key)
            earlier = self._certificates.setdefault(found.host, found)
            if earlier.secret != found.secret:
                owner = f"Ingress {earlier.owner}, which is older, has the certificate of Secret {earlier.secret}"
                self._problem(key, "Conflict", f"{at}: {host}: {owner}")

    def _problem(self, key: Key, reason: str, message: str) -> None:
        self._problems.append(Problem(key, reason, f"Ingress {key}: {message}"))


def _precedence(rule: Rule) -> tuple[bool, int, str]:
    """Only one exact path can match, and it is as long as the request's: exact ones may all go first."""
    return not rule.exact, -len(rule.path), rule.path
