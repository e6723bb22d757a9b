"""What annotations of a Service say to Traefik: how its servers are spoken to, and whether clients stay with one."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from kmn.ingress.dialects.traefik.annotations import Notes
from kmn.ingress.model import Backend, Cookie, Protocol, Reach, Upstream
from kmn.k8s.objects import Object

__all__ = ["Target", "target_of"]

_COOKIE = "service.sticky.cookie"
_KNOWN = (
    "service.serversscheme", "service.passhostheader", "service.nativelb", "service.nodeportlb", _COOKIE,
    *(f"{_COOKIE}.{name}" for name in ("name", "secure", "httponly", "samesite", "maxage", "path")),
)  # fmt: skip
_SCHEMES = {"http": Protocol.HTTP, "https": Protocol.HTTPS, "h2c": Protocol.H2C}
_SAME_SITE = {"none": "None", "lax": "Lax", "strict": "Strict"}


class Target(NamedTuple):
    """Where requests go, and the cookie that keeps a client with a server."""

    upstream: Upstream
    cookie: Cookie | None


def target_of(notes: Notes, backend: Backend, service: Object) -> Target:
    """``notes`` has the Service's annotations."""
    notes.unknown(_KNOWN)
    scheme = notes.text("service.serversscheme", among=_SCHEMES)
    if notes.text("service.passhostheader", among=("true", "false")) == "false":
        notes.ignored("service.passhostheader", "is not emulated: servers get the Host header of the client")
    upstream = Upstream(
        backend,
        _SCHEMES[scheme or _scheme(backend, service)],
        reach=Reach.NODES if notes.flag("service.nodeportlb") else Reach.PODS,
        cluster_address=notes.flag("service.nativelb"),
    )
    return Target(upstream, _cookie(notes, backend) if notes.flag(_COOKIE) else None)


def _scheme(backend: Backend, service: Object) -> str:
    """Of a port that no annotation says it of: its number or name does."""
    wanted = "port" if isinstance(backend.port, int) else "name"
    ports: list[dict[str, Any]] = service["spec"].get("ports") or []
    found = next((port for port in ports if port.get(wanted) == backend.port), {})
    return "https" if found.get("port") == 443 or (found.get("name") or "").startswith("https") else "http"


def _cookie(notes: Notes, backend: Backend) -> Cookie:
    name = notes.text(f"{_COOKIE}.name")
    if name is None:
        own = f"{backend.namespace}-{backend.service}-{backend.port}@kubernetes"
        name = "_" + hashlib.sha1(own.encode(), usedforsecurity=False).hexdigest()[:5]
    attributes: list[tuple[str, str]] = []  # Envoy's cookies are HttpOnly anyway
    if notes.flag(f"{_COOKIE}.secure"):
        attributes.append(("Secure", ""))
    same_site = notes.text(f"{_COOKIE}.samesite", among=_SAME_SITE)
    if same_site is not None:
        attributes.append(("SameSite", _SAME_SITE[same_site]))
    path = notes.text(f"{_COOKIE}.path") or "/"
    return Cookie(name, path, notes.number(f"{_COOKIE}.maxage") or None, tuple(attributes))
