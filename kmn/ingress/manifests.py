"""The objects that make an ingress controller: the published ones of ingress-nginx or Traefik, as far as they mean
something.

A controller is a name. Controller ``nginx`` has namespace ``ingress-nginx``, and in it the Deployment and the Service
``ingress-nginx-controller``; its class is IngressClass ``nginx``. Of Traefik all of them have the controller's name.
There is no image to run: the annotation ``kmn.io/program: ingress`` says that kmn's Envoy runs in the pods, and
``kmn.io/ingress-controller`` for which ``spec.controller`` of IngressClasses. Of controller ``alb`` there is the class
only: its proxies are outside.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from kmn.cluster_spec import IngressController
from kmn.k8s.dataplane import ALB_CONTROLLER, PROGRAM, TRAEFIK_CONTROLLER
from kmn.k8s.objects import Object

__all__ = ["CONTROLLER", "DEFAULT_CLASS", "INGRESS_PROGRAM", "ingress_objects"]

CONTROLLER = "kmn.io/ingress-controller"
DEFAULT_CLASS = "ingressclass.kubernetes.io/is-default-class"
INGRESS_PROGRAM = "ingress"

_HEALTH_PORT = 10254


class _Form(NamedTuple):
    """What the objects of controllers differ in."""

    namespace: str
    name: str
    component: str
    image: str
    ports: tuple[str, str]  # names of those for HTTP and HTTPS
    local: bool  # the controller sees the client's address, not a node's


def _form(controller: IngressController) -> _Form:
    name = controller.name
    if controller.controller == TRAEFIK_CONTROLLER:
        return _Form(name, name, "proxy", "docker.io/traefik:v3.5.0", ("web", "websecure"), local=False)
    namespace, image = f"ingress-{name}", "registry.k8s.io/ingress-nginx/controller:v1.13.0"
    return _Form(namespace, f"{namespace}-controller", "controller", image, ("http", "https"), local=True)


def ingress_objects(controller: IngressController) -> list[Object]:
    """Namespace, Deployment, Service and IngressClass, in the order to create them."""
    if controller.controller == ALB_CONTROLLER:
        return [_class(controller, {"app.kubernetes.io/name": "aws-load-balancer-controller"})]
    form = _form(controller)
    labels = {
        "app.kubernetes.io/name": form.namespace,
        "app.kubernetes.io/instance": form.namespace,
        "app.kubernetes.io/component": form.component,
    }
    meta = {"name": form.name, "namespace": form.namespace, "labels": labels}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": form.namespace, "labels": labels}},
        _deployment(controller, form, meta),
        _service(form, meta),
        _class(controller, labels),
    ]


def _deployment(controller: IngressController, form: _Form, meta: dict[str, Any]) -> Object:
    probe = {"httpGet": {"path": "/healthz", "port": _HEALTH_PORT, "scheme": "HTTP"}, "failureThreshold": 3}
    ports = [*zip(form.ports, (80, 443), strict=True), ("health", _HEALTH_PORT)]
    container = {
        "name": form.component,
        "image": form.image,
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


def _service(form: _Form, meta: dict[str, Any]) -> Object:
    both = zip(form.ports, (80, 443), strict=True)
    ports = [{"name": name, "port": port, "targetPort": name, "protocol": "TCP"} for name, port in both]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Local" if form.local else "Cluster",
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
