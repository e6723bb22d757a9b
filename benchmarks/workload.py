"""Cluster files and manifests that the measurements use, as objects."""

from __future__ import annotations

from typing import Any

__all__ = ["cluster", "deployment", "selectorless_service", "service", "slice_of"]


def cluster(name: str, nodes: int) -> dict[str, Any]:
    """A cluster of ``nodes`` alike nodes and nothing outside."""
    return {
        "apiVersion": "kmn.io/v1",
        "kind": "Cluster",
        "metadata": {"name": name},
        "spec": {"nodes": [{"count": nodes}], "internet": {"hosts": []}},
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


def service(name: str, app: str, port: int = 80) -> dict[str, Any]:
    """A ClusterIP Service in front of the pods labelled ``app``."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": app}, "ports": [{"port": port}]},
    }


def selectorless_service(name: str) -> dict[str, Any]:
    """A ClusterIP Service whose endpoints are given by hand."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"ports": [{"port": 80}]},
    }


def slice_of(service_name: str, addresses: list[str]) -> dict[str, Any]:
    """An EndpointSlice of these addresses, port 80."""
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
        "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
    }
