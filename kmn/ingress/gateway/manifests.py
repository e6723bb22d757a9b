"""The objects that make a Gateway: a Deployment whose pods have an Envoy, and the load balancer before it.

They stand in the Gateway's namespace as ``GATEWAY-CLASS``, with the labels of GEP-1762, and belong to the Gateway: they
go with it. Ports of listeners are the ports of the Service and of the pods.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

from kmn.ingress.envoy.listeners import HEALTH_PORT
from kmn.ingress.manifests import CONTROLLER, INGRESS_PROGRAM
from kmn.k8s.dataplane import GATEWAY, PROGRAM
from kmn.k8s.loadbalancers import LB_ADDRESS
from kmn.k8s.objects import Key, Object, key_of, owner_reference

__all__ = ["gateway_name", "gateway_objects", "program_of"]

_GATEWAY_NAME = "gateway.networking.k8s.io/gateway-name"
_CLASS_NAME = "gateway.networking.k8s.io/gateway-class-name"
_IMAGE = "docker.io/envoyproxy/envoy:v1.36.0"
_LONGEST = 63  # characters of a label's value, and of a Service's name
_PROTOCOLS = ("HTTP", "HTTPS", "TLS", "TCP")


def program_of(gateway: Key) -> str:
    """What its pods say that they are: the value of the annotation ``kmn.io/ingress-controller``."""
    return f"Gateway {gateway}"


def gateway_name(gateway: Object) -> str:
    """The name of its Deployment and Service."""
    plain = f"{gateway['metadata']['name']}-{gateway['spec']['gatewayClassName']}"
    return _label(plain) if re.fullmatch(r"[a-z][-a-z0-9]*", plain) else _label(f"gw-{plain}", changed=True)


def _label(text: str, *, changed: bool = False) -> str:
    """A DNS label; a part of its hash keeps apart what would become the same."""
    if len(text) <= _LONGEST and not changed:
        return text
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:8]
    return f"{text.replace('.', '-')[: _LONGEST - 9]}-{digest}"


def gateway_objects(gateway: Object) -> list[Object]:
    """Deployment and Service."""
    key, spec = key_of(gateway), gateway["spec"]
    infrastructure = spec.get("infrastructure") or {}
    own = {_GATEWAY_NAME: _label(key.name), _CLASS_NAME: _label(spec["gatewayClassName"])}
    labels = {**(infrastructure.get("labels") or {}), **own}
    annotations = dict(infrastructure.get("annotations") or {})
    meta: dict[str, Any] = {
        "name": gateway_name(gateway),
        "namespace": key.namespace,
        "labels": labels,
        "annotations": annotations,
        "ownerReferences": [owner_reference(gateway)],
    }
    return [_deployment(key, meta, own), *_service(spec, meta, own)]


def _deployment(gateway: Key, meta: dict[str, Any], selector: dict[str, str]) -> Object:
    probe = {"httpGet": {"path": "/healthz", "port": HEALTH_PORT, "scheme": "HTTP"}, "failureThreshold": 3}
    container = {
        "name": "envoy",
        "image": _IMAGE,
        "ports": [{"name": "health", "containerPort": HEALTH_PORT, "protocol": "TCP"}],
        "readinessProbe": {**probe, "periodSeconds": 1},
        "livenessProbe": {**probe, "failureThreshold": 5},
    }
    program = {PROGRAM: INGRESS_PROGRAM, CONTROLLER: program_of(gateway), GATEWAY: gateway.name}
    annotations = {**meta["annotations"], **program}
    template = {
        "metadata": {"labels": meta["labels"], "annotations": annotations},
        "spec": {"containers": [container], "nodeSelector": {"kubernetes.io/os": "linux"}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta,
        "spec": {"selector": {"matchLabels": selector}, "template": template},
    }


def _service(spec: dict[str, Any], meta: dict[str, Any], selector: dict[str, str]) -> Iterator[Object]:
    ports = {entry["port"]: entry["protocol"] for entry in spec["listeners"] if entry["protocol"] in _PROTOCOLS}
    if not ports:
        return
    annotations = dict(meta["annotations"])
    wanted = [entry["value"] for entry in spec.get("addresses") or () if entry.get("value")]
    if wanted:
        annotations[LB_ADDRESS] = ",".join(wanted)
    yield {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {**meta, "annotations": annotations},
        "spec": {
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Local",  # its pods see the client's address
            "ipFamilyPolicy": "PreferDualStack",
            "selector": selector,
            "ports": [
                {"name": f"{protocol.lower()}-{port}", "port": port, "targetPort": port, "protocol": "TCP"}
                for port, protocol in sorted(ports.items())
            ],
        },
    }
