"""Short ways to write the objects that the tests of Ingress are about."""

from __future__ import annotations

import base64
from typing import Any

from kmn.ingress.certificates import KeyPair
from kmn.k8s.objects import Object


def meta(name: str, created: int = 0, **fields: Any) -> Object:
    return {
        "name": name,
        "namespace": fields.pop("namespace", "default"),
        "uid": name,
        "creationTimestamp": f"2026-01-01T00:00:{created:02}Z",
        **fields,
    }


def service(name: str, port: int | str = 80) -> dict[str, Any]:
    """A backend."""
    return {"service": {"name": name, "port": {"number" if isinstance(port, int) else "name": port}}}


def path(text: str, backend: str, kind: str = "Prefix") -> dict[str, Any]:
    return {"path": text, "pathType": kind, "backend": service(backend)}


def rule(host: str | None, *paths: dict[str, Any]) -> dict[str, Any]:
    return {"http": {"paths": list(paths)}, **({"host": host} if host else {})}


def ingress(name: str, *rules: dict[str, Any], created: int = 0, default: str = "", **fields: Any) -> Object:
    spec: dict[str, Any] = {"ingressClassName": "nginx", "rules": list(rules)}
    if default:
        spec["defaultBackend"] = service(default)
    if "tls" in fields:
        spec["tls"] = fields.pop("tls")
    return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": meta(name, created, **fields),
            "spec": spec}  # fmt: skip


def tls_secret(name: str, pair: KeyPair, namespace: str = "default") -> Object:
    texts = {"tls.crt": pair.certificate, "tls.key": pair.key}
    data = {part: base64.b64encode(text.encode()).decode() for part, text in texts.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta(name, namespace=namespace), "data": data}


def slice_of(name: str, *addresses: str, port: int = 8080, port_name: str = "", ready: bool | None = None) -> Object:
    """An EndpointSlice of a Service; ``ready`` None: the endpoints do not say."""
    conditions = {} if ready is None else {"conditions": {"ready": ready}}
    return {
        "metadata": meta(f"{name}-{'-'.join(addresses)}", labels={"kubernetes.io/service-name": name}),
        "addressType": "IPv6" if ":" in addresses[0] else "IPv4",
        "endpoints": [{"addresses": [address], **conditions} for address in addresses],
        "ports": [{"name": port_name, "port": port, "protocol": "TCP"}],
    }


def service_object(name: str, *ports: dict[str, Any], **spec: Any) -> Object:
    return {"metadata": meta(name), "spec": {"ports": list(ports) or [{"port": 80}], **spec}}
