"""Cluster files and manifests that the measurements use, as objects."""

from __future__ import annotations

from typing import Any

__all__ = ["cluster", "deployment", "service"]


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
