"""Cluster files and manifests that the measurements use, as objects."""

from __future__ import annotations

from typing import Any

__all__ = ["cluster", "deployment", "ingress", "place", "selectorless_service", "service", "slice_of"]


def cluster(name: str, nodes: int, internet: dict[str, Any] | None = None) -> dict[str, Any]:
    """A cluster of ``nodes`` alike nodes, and outside ``internet`` of the cluster file: nothing by default."""
    return {
        "apiVersion": "kmn.io/v1",
        "kind": "Cluster",
        "metadata": {"name": name},
        "spec": {"nodes": [{"count": nodes}], "internet": {"hosts": []} if internet is None else internet},
    }


def deployment(name: str, replicas: int, port: int = 80) -> dict[str, Any]:
    """``replicas`` pods with one container that listens on ``port``."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "web", "image": "web", "ports": [{"containerPort": port}]}]},
            },
        },
    }


def place(name: str, node: str) -> dict[str, Any]:
    """A pod on a node, labelled with its name, in which nothing runs: the measurement brings its own programs."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"app": name},
            "annotations": {"kmn.io/program": "none"},
        },
        "spec": {"nodeName": node, "containers": [{"name": "place", "image": "place"}]},
    }


def service(name: str, app: str, port: int = 80) -> dict[str, Any]:
    """A ClusterIP Service in front of the pods labelled ``app``."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": app}, "ports": [{"port": port}]},
    }


def selectorless_service(name: str, port: int = 80) -> dict[str, Any]:
    """A ClusterIP Service whose endpoints are given by hand."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"ports": [{"port": port}]},
    }


def slice_of(service_name: str, addresses: list[str], port: int = 80) -> dict[str, Any]:
    """An EndpointSlice of these addresses."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": service_name,
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": service_name},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
        "ports": [{"name": "", "port": port, "protocol": "TCP"}],
    }


def ingress(name: str, host: str, service: str, port: int = 80, *, secret: str = "") -> dict[str, Any]:
    """An Ingress of class nginx: one host, all of whose paths lead to a Service; with a Secret's certificate, and
    without being redirected to HTTPS for that."""
    backend = {"service": {"name": service, "port": {"number": port}}}
    rule = {"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}
    tls = {"tls": [{"hosts": [host], "secretName": secret}]} if secret else {}
    annotations = {"nginx.ingress.kubernetes.io/ssl-redirect": "false"}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": name, "namespace": "default", "annotations": annotations},
        "spec": {"ingressClassName": "nginx", "rules": [rule], **tls},
    }
