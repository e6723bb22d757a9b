"""Shell completion of clusters, pods, nodes and kinds. Whatever goes wrong, completion just has nothing to offer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kmn.cluster import Cluster

__all__ = ["clusters", "namespaces", "nodes", "pods", "resources"]


def _offer(incomplete: str, words: Callable[[], list[str]]) -> list[str]:
    try:
        return [word for word in words() if word.startswith(incomplete)]
    except Exception:
        return []


def _cluster() -> Cluster:
    from kmn.cluster import Cluster

    return Cluster.attach()


def clusters(incomplete: str) -> list[str]:
    """Names of running clusters."""

    def words() -> list[str]:
        from kmn.front import running

        return [state.name for state in running()]

    return _offer(incomplete, words)


def namespaces(incomplete: str) -> list[str]:
    """Namespaces of the running cluster."""
    from kmn.k8s.objects import name_of
    from kmn.k8s.resources import NAMESPACES

    return _offer(incomplete, lambda: [name_of(obj) for obj in _cluster().client.list(NAMESPACES).items])


def nodes(incomplete: str) -> list[str]:
    """Nodes of the running cluster."""
    from kmn.k8s.objects import name_of
    from kmn.k8s.resources import NODES

    return _offer(incomplete, lambda: [name_of(obj) for obj in _cluster().client.list(NODES).items])


def pods(incomplete: str) -> list[str]:
    """Pods: of namespace default by name, others as NAMESPACE/NAME; and nodes."""
    from kmn.k8s.objects import key_of
    from kmn.k8s.resources import PODS

    def words() -> list[str]:
        keys = [key_of(pod) for pod in _cluster().client.list(PODS).items]
        return [key.name if key.namespace == "default" else str(key) for key in keys]

    return _offer(incomplete, words) + [f"node/{name}" for name in nodes(incomplete.removeprefix("node/"))]


def resources(incomplete: str) -> list[str]:
    """Kinds that ``get`` knows."""
    from kmn.k8s.resources import ALL

    return _offer(incomplete, lambda: sorted({resource.plural for resource in ALL}))
