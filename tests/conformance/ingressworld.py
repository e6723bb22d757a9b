"""What Ingress cases need around them: backends that say who they are, and requests from outside."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from kmn.emulator import netns
from kmn.k8s.objects import Key, Object

__all__ = ["PORTS", "Answer", "ask", "backend_objects", "backends_of"]

# Of every backend's Service: by name, or the number alone.
PORTS = {"http": 8080, "web": 80, "alt": 4200}
_PATIENCE = 15.0  # seconds; longer than a proxy tries to connect


# --- backends ---------------------------------------------------------------------------------------------------


def backends_of(manifests: Iterable[Object]) -> list[Key]:
    """The Services that Ingresses name, in order."""
    found: dict[Key, None] = {}
    for obj in manifests:
        if obj["kind"] == "Ingress":
            namespace = obj["metadata"].get("namespace", "default")
            found.update((Key(namespace, name), None) for name in _services(obj.get("spec") or {}))
    return list(found)


def _services(spec: Object) -> Iterator[str]:
    backends = [spec.get("defaultBackend")]
    backends += [path["backend"] for rule in spec.get("rules") or () for path in (rule.get("http") or {})["paths"]]
    for backend in backends:
        if backend and backend.get("service"):
            yield backend["service"]["name"]


def backend_objects(service: Key, *, replicas: int = 1) -> list[Object]:
    """A Service, and pods that carry the label ``svc`` with its name."""
    meta = {"name": service.name, "namespace": service.namespace}
    labels = {"svc": service.name}
    ports = [{"name": name, "port": port, "targetPort": 8080} for name, port in PORTS.items()]
    container = {"name": "echo", "image": "example.com/echo:1", "ports": [{"containerPort": 8080}]}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"selector": labels, "ports": ports}},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": meta,
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
            },
        },
    ]


# --- requests ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """``echo`` is what the backend tells of itself and the request, {} where none answered."""

    status: int
    echo: dict[str, Any]
    certificate: bytes | None  # DER

    @property
    def service(self) -> str:
        """The Service's name, from that of its Deployment's pod."""
        return str(self.echo.get("pod", "")).rsplit("-", 2)[0]

    @property
    def headers(self) -> dict[str, str]:
        """Of the request as the backend saw it, by names in lower case."""
        return {name.lower(): value for name, value in (self.echo.get("headers") or {}).items()}

    def __str__(self) -> str:
        return f"{self.status} {self.service or '(no backend)'} {json.dumps(self.echo)[:300]}"


def ask(
    namespace: str, address: str, port: int, request: dict[str, Any], host: str, context: ssl.SSLContext | None
) -> Answer:
    """One request on a connection of its own; with ``context`` over TLS. No answer is an AssertionError."""
    with netns.entered(namespace):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.settimeout(_PATIENCE)
    certificate = None
    try:
        sock.connect((address, port))
        if context is not None:
            name = (request.get("tls") or {}).get("verify_hostname") or host.partition(":")[0]
            tls = context.wrap_socket(sock, server_hostname=name)
            certificate, sock = tls.getpeercert(binary_form=True), tls
        connection = http.client.HTTPConnection(address, port)
        connection.sock = sock
        headers = {"Host": host, "Connection": "close", **request.get("headers", {})}
        connection.request(request.get("method", "GET"), request["path"], headers=headers)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise AssertionError(f"no answer: {error!r}") from None
    finally:
        sock.close()
    try:
        echo = json.loads(body)
    except ValueError:
        echo = {}
    return Answer(response.status, echo if isinstance(echo, dict) else {}, certificate)
