"""Services that annotations name, by name or by URL."""

from __future__ import annotations

from urllib.parse import urlsplit

from kmn.ingress.dialects.nginx.annotations import Annotations
from kmn.ingress.model import Backend, Owner, Protocol, Upstream
from kmn.ingress.routing import Find
from kmn.k8s.objects import Key
from kmn.k8s.resources import SERVICES

__all__ = ["service_of_url", "spare_of"]

_PORTS = {"http": 80, "https": 443}


def spare_of(owner: Owner, given: Annotations, find: Find) -> Backend | None:
    """Who has requests while a backend has no endpoints: the first port of the Service of ``default-backend``."""
    name = given.text("default-backend")
    if name is None:
        return None
    service = find(SERVICES, Key(owner.namespace, name))
    ports = ((service or {}).get("spec") or {}).get("ports") or ()
    if not ports:
        given.invalid("default-backend", f"must be the name of a Service of namespace {owner.namespace}")
        return None
    return Backend(owner.namespace, name, ports[0]["port"])


def service_of_url(url: str, find: Find) -> tuple[Upstream, str]:
    """The Service behind a URL, and the rest of the URL: path and query.

    Raises ValueError for one that does not lead to a Service of the cluster: outside names are looked up by nobody.
    """
    found = urlsplit(url)
    if found.scheme not in _PORTS or not found.hostname or "$" in found.netloc:
        raise ValueError('must be "http://NAME.NAMESPACE.svc.cluster.local/PATH"')
    labels = found.hostname.removesuffix(".").removesuffix(".cluster.local").removesuffix(".svc").split(".")
    service = find(SERVICES, Key(labels[1], labels[0])) if len(labels) == 2 else None
    if service is None:
        raise ValueError(f"{found.hostname} is no Service of this cluster")
    protocol = Protocol.HTTPS if found.scheme == "https" else Protocol.HTTP
    port = found.port or _PORTS[found.scheme]
    query = f"?{found.query}" if found.query else ""
    return Upstream(Backend(labels[1], labels[0], port), protocol), found.path + query
