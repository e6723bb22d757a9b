"""The objects that make an ingress controller: ingress-nginx' published ones, as far as they mean something.

A controller is a name. Controller ``nginx`` has namespace ``ingress-nginx``, and in it the Deployment and the Service
``ingress-nginx-controller``; its class is IngressClass ``nginx``. There is no image to run: the annotation
``kmn.io/program: ingress`` says that kmn's Envoy runs in the pods, and ``kmn.io/ingress-controller`` for which
``spec.controller`` of IngressClasses.
"""

from __future__ import annotations

from typing import Any

from kmn.cluster_spec import IngressController
from kmn.k8s.dataplane import PROGRAM
from kmn.k8s.objects import Object

__all__ = ["CONTROLLER", "DEFAULT_CLASS", "INGRESS_PROGRAM", "ingress_objects"]

CONTROLLER = "kmn.io/ingress-controller"
DEFAULT_CLASS = "ingressclass.kubernetes.io/is-default-class"
INGRESS_PROGRAM = "ingress"

_IMAGE = "registry.k8s.io/ingress-nginx/controller:v1.13.0"
_HEALTH_PORT = 10254
_PORTS = (("http", 80), ("https", 443))


def ingress_objects(controller: IngressController) -> list[Object]:
    """Namespace, Deployment, Service and IngressClass, in the order to create them."""
    namespace = f"ingress-{controller.name}"
    labels = {
        "app.kubernetes.io/name": namespace,
        "app.kubernetes.io/instance": namespace,
        "app.kubernetes.io/component": "controller",
    }
    meta = {"name": f"{namespace}-controller", "namespace": namespace, "labels": labels}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}},
        _deployment(controller, meta),
        _service(meta),
        _class(controller, labels),
    ]


def _deployment(controller: IngressController, meta: dict[str, Any]) -> Object:
    probe = {"httpGet": {"path": "/healthz", "port": _HEALTH_PORT, "scheme": "HTTP"}, "failureThreshold": 3}
    ports = [*_PORTS, ("health", _HEALTH_PORT)]
    container = {
        "name": "controller",
        "image": _IMAGE,
        "ports": [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in ports],
        "readinessProbe": {**probe, "periodSeconds": 1},
        "livenessProbe": {**probe, "failureThreshold": 5},
    }
    annotations = {PROGRAM: INGRESS_PROGRAM, CONTROLLER: controller.controller}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta,
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": meta["labels"]},
            "template": {
                "metadata": {"labels": meta["labels"], "annotations": annotations},
                "spec": {"containers": [container], "nodeSelector": {"kubernetes.io/os": "linux"}},
            },
        },
    }


def _service(meta: dict[str, Any]) -> Object:
    ports = [{"name": name, "port": port, "targetPort": name, "protocol": "TCP"} for name, port in _PORTS]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Local",  # the controller sees the client's address
            "ipFamilyPolicy": "PreferDualStack",
            "selector": meta["labels"],
            "ports": ports,
        },
    }


def _class(controller: IngressController, labels: dict[str, str]) -> Object:
    annotations = {"annotations": {DEFAULT_CLASS: "true"}} if controller.default else {}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IngressClass",
        "metadata": {"name": controller.name, "labels": labels, **annotations},
        "spec": {"controller": controller.controller},
    }
