"""Services and EndpointSlices as the API has them, as far as the controller reads them."""

from __future__ import annotations

from typing import Any

from kmn.k8s.objects import Object

__all__ = ["endpoint_slice", "service", "with_spec"]


def service(name: str, address: str, *ports: tuple[str, str, int]) -> Object:
    """``ports``: name, protocol, number."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "default", "name": name},
        "spec": {
            "clusterIP": address,
            "ports": [{"name": n, "protocol": protocol, "port": number} for n, protocol, number in ports],
        },
    }


def with_spec(obj: Object, **spec: Any) -> Object:
    """The object with more fields of its spec."""
    return {**obj, "spec": {**obj["spec"], **spec}}


def endpoint_slice(name: str, addresses: list[str], *ports: tuple[str, str, int], **conditions: bool) -> Object:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default",
            "name": f"{name}-1",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [a], "conditions": conditions or {"ready": True}} for a in addresses],
        "ports": [{"name": n, "protocol": protocol, "port": number} for n, protocol, number in ports],
    }
