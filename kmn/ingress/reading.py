"""What the spec of one Ingress says, read by itself: which paths of which hosts go where, and what TLS shows. Pure.

Annotations are not looked at here: what they mean is up to the controller (``dialects``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from kmn.ingress.model import ANY_HOST, Backend, How, Owner, Problem, Text
from kmn.k8s.objects import Key, Object, key_of

__all__ = ["Claim", "Reading", "Shown", "literal_path", "read_all", "unknown_annotations"]

ALL_PATHS = "/"
# Annotations in these domains are orders to a controller.
_CONTROLLERS_DOMAIN = "ingress.kubernetes.io"


class Claim(NamedTuple):
    """That the requests for a host and path go to a backend. ``path`` and ``path_type`` are as the object has them."""

    owner: Owner
    field: str
    host: str  # in lower case; ANY_HOST
    path: str
    path_type: str  # Exact, Prefix or ImplementationSpecific
    backend: Backend


class Shown(NamedTuple):
    """That clients which ask for a host are shown a Secret's certificate (None: the default one)."""

    owner: Owner
    field: str
    host: str  # as the object has it
    secret: Key | None


@dataclass(frozen=True, slots=True)
class Reading:
    """One Ingress. ``hosts`` are those of its rules, each once; ``default`` is for all paths of any host."""

    ingress: Object
    owner: Owner
    hosts: tuple[str, ...]
    claims: tuple[Claim, ...]
    default: Claim | None
    shown: tuple[Shown, ...]
    problems: tuple[Problem, ...]

    @property
    def annotations(self) -> dict[str, str]:
        """All of them, none if there are none."""
        return self.ingress["metadata"].get("annotations") or {}

    def problem(self, reason: str, message: str) -> Problem:
        """One of this Ingress: ``message`` begins with the field."""
        return Problem(self.owner, reason, f"{self.owner}: {message}")


def read_all(ingresses: Iterable[Object]) -> list[Reading]:
    """The oldest first: where two say different things it counts."""
    return [_read(ingress) for ingress in sorted(ingresses, key=_age)]


def _age(ingress: Object) -> tuple[str, Key]:
    return ingress["metadata"].get("creationTimestamp") or "", key_of(ingress)


def _read(ingress: Object) -> Reading:
    key, spec = key_of(ingress), ingress.get("spec") or {}
    owner = Owner("Ingress", key.namespace, key.name)
    rules = spec.get("rules") or ()
    problems: list[Problem] = []
    claims = []
    for index, rule in enumerate(rules):
        paths = (rule.get("http") or {}).get("paths") or ()
        for number, path in enumerate(paths):
            at = f"spec.rules[{index}].http.paths[{number}]"
            backend = _backend(owner, f"{at}.backend", path["backend"], problems)
            if backend is not None:
                claims.append(Claim(owner, at, _host(rule), path.get("path") or ALL_PATHS, path["pathType"], backend))
    default = None
    if spec.get("defaultBackend") is not None:
        backend = _backend(owner, "spec.defaultBackend", spec["defaultBackend"], problems)
        if backend is not None:
            default = Claim(owner, "spec.defaultBackend", ANY_HOST, ALL_PATHS, "Prefix", backend)
    hosts = tuple(dict.fromkeys(map(_host, rules)))
    return Reading(ingress, owner, hosts, tuple(claims), default, tuple(_shown(owner, spec)), tuple(problems))


def _host(rule: dict[str, Any]) -> str:
    return str(rule.get("host") or ANY_HOST).lower()


def _backend(owner: Owner, at: str, backend: dict[str, Any], problems: list[Problem]) -> Backend | None:
    service = backend.get("service")
    if service is None:
        resource = backend.get("resource") or {}
        what = f"{resource.get('kind', '')} {resource.get('name', '')}"
        message = f"{owner}: {at}.resource: {what}: only Services are served: name a service"
        problems.append(Problem(owner, "NotEmulated", message))
        return None
    port = service.get("port") or {}
    return Backend(owner.namespace, service["name"], port.get("number") or port.get("name") or "")


def _shown(owner: Owner, spec: dict[str, Any]) -> Iterator[Shown]:
    of_rules = [rule["host"] for rule in spec.get("rules") or () if rule.get("host")]
    for index, tls in enumerate(spec.get("tls") or ()):
        secret = Key(owner.namespace, tls["secretName"]) if tls.get("secretName") else None
        for host in tls.get("hosts") or of_rules:
            yield Shown(owner, f"spec.tls[{index}]", host, secret)


def literal_path(claim: Claim) -> Text:
    """The path as the API reference means it; ``ImplementationSpecific`` is ``Prefix``.

    Raises ValueError for one that no request can have.
    """
    if "?" in claim.path or "#" in claim.path:
        raise ValueError(f'{claim.field}.path: "{claim.path}": no path of a request has "?" or "#" in it: remove it')
    if claim.path_type == "Exact":
        return Text(How.EXACT, claim.path)
    return Text(How.PREFIX, claim.path.rstrip("/"))


def unknown_annotations(reading: Reading, *known_domains: str) -> Iterator[Problem]:
    """Orders to controllers that nobody follows, besides those of domains that somebody looks after."""
    for name in sorted(reading.annotations):
        domain = name.partition("/")[0]
        if domain.endswith(_CONTROLLERS_DOMAIN) and domain not in known_domains:
            yield reading.problem("NotEmulated", f"annotation {name} is not emulated: it has no effect")
