"""The objects of Istio's ingress gateway, as its installation has them: a Deployment and a Service in istio-system.

The Service leads port 80 to the pods' port 8080 and 443 to 8443, and other ports of servers to the same port; so a
server may name either (:func:`pod_port`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kmn.ingress.envoy.listeners import HEALTH_PORT
from kmn.ingress.manifests import CONTROLLER, INGRESS_PROGRAM
from kmn.k8s.dataplane import GATEWAY, PROGRAM
from kmn.k8s.objects import Object

__all__ = [
    "ISTIO_NAMESPACE",
    "PROGRAM_NAME",
    "istio_objects",
    "pod_port",
    "public_port",
    "selects_ours",
    "service_ports",
]

ISTIO_NAMESPACE = "istio-system"
PROGRAM_NAME = "istio-ingressgateway"  # what its pods say that they are
_LABELS = {"app": "istio-ingressgateway", "istio": "ingressgateway"}
_IMAGE = "docker.io/istio/proxyv2:1.29.0"
_TARGETS = {80: 8080, 443: 8443}


def selects_ours(gateway: Object) -> bool:
    """Whether ``spec.selector`` of a Gateway fits the pods of the ingress gateway; without one it does."""
    selector: Mapping[str, str] = gateway["spec"].get("selector") or {}
    return selector.items() <= _LABELS.items()


def pod_port(number: int) -> int:
    """The port of the pods that a server's port stands for."""
    return _TARGETS.get(number, number)


def public_port(pod: int) -> int:
    """The port of the load balancer that leads to a port of the pods."""
    return next((port for port, target in _TARGETS.items() if target == pod), pod)


def service_ports(gateways: Iterable[Object]) -> list[dict[str, Any]]:
    """``spec.ports`` of the Service: the usual two, and those that servers add."""
    numbers = {s["port"]["number"] for gateway in gateways for s in gateway["spec"].get("servers") or ()}
    ports = {"http2": 80, "https": 443}
    ports |= {f"tcp-{n}": n for n in sorted(numbers) if n not in _TARGETS and n not in _TARGETS.values()}
    return [
        {"name": name, "port": port, "targetPort": pod_port(port), "protocol": "TCP"} for name, port in ports.items()
    ]


def istio_objects(gateways: Iterable[Object]) -> list[Object]:
    """Namespace, Deployment and Service, in the order to create them."""
    meta = {"name": "istio-ingressgateway", "namespace": ISTIO_NAMESPACE, "labels": _LABELS}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ISTIO_NAMESPACE}},
        _deployment(meta),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta,
            "spec": {
                "type": "LoadBalancer",
                "externalTrafficPolicy": "Local",  # its pods see the client's address
                "ipFamilyPolicy": "PreferDualStack",
                "selector": _LABELS,
                "ports": service_ports(gateways),
            },
        },
    ]


def _deployment(meta: dict[str, Any]) -> Object:
    probe = {"httpGet": {"path": "/healthz", "port": HEALTH_PORT, "scheme": "HTTP"}, "failureThreshold": 3}
    container = {
        "name": "istio-proxy",
        "image": _IMAGE,
        "ports": [{"name": "health", "containerPort": HEALTH_PORT, "protocol": "TCP"}],
        "readinessProbe": {**probe, "periodSeconds": 1},
        "livenessProbe": {**probe, "failureThreshold": 5},
    }
    annotations = {PROGRAM: INGRESS_PROGRAM, CONTROLLER: PROGRAM_NAME, GATEWAY: PROGRAM_NAME}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta,
        "spec": {
            "selector": {"matchLabels": _LABELS},
            "template": {
                "metadata": {"labels": _LABELS, "annotations": annotations},
                "spec": {"containers": [container], "nodeSelector": {"kubernetes.io/os": "linux"}},
            },
        },
    }
