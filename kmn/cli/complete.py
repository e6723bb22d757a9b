"""Shell completion of clusters, namespaces, kinds and objects. Whatever goes wrong, there is just nothing to offer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from typer import Context

if TYPE_CHECKING:
    from kmn.cluster import Cluster
    from kmn.k8s.resources import Resource

__all__ = ["clusters", "namespaces", "nodes", "objects", "pods"]


def _offer(incomplete: str, words: Callable[[], list[str]]) -> list[str]:
    try:
        return [word for word in words() if word.startswith(incomplete)]
    except Exception:
        return []


def _cluster(ctx: Context) -> Cluster:
    """The cluster that the command line names so far, else the only one."""
    from kmn.cluster import Cluster

    return Cluster.attach(ctx.params.get("name"))


def _names(ctx: Context, resource: Resource, namespace: str = "") -> list[str]:
    from kmn.k8s.objects import name_of

    return [name_of(obj) for obj in _cluster(ctx).client.list(resource, namespace).items]


def clusters(incomplete: str) -> list[str]:
    """Names of running clusters."""

    def words() -> list[str]:
        from kmn.front import running

        return [state.name for state in running()]

    return _offer(incomplete, words)


def namespaces(ctx: Context, incomplete: str) -> list[str]:
    """Namespaces of the cluster."""
    from kmn.k8s.resources import NAMESPACES

    return _offer(incomplete, lambda: _names(ctx, NAMESPACES))


def nodes(ctx: Context, incomplete: str) -> list[str]:
    """Nodes of the cluster."""
    from kmn.k8s.resources import NODES

    return _offer(incomplete, lambda: _names(ctx, NODES))


def pods(ctx: Context, incomplete: str) -> list[str]:
    """Pods: of the namespace meant by name, others as NAMESPACE/NAME; and nodes."""
    from kmn.k8s.objects import key_of
    from kmn.k8s.resources import NODES, PODS

    def words() -> list[str]:
        here = ctx.params.get("namespace") or "default"
        keys = [key_of(pod) for pod in _cluster(ctx).client.list(PODS).items]
        offered = [key.name if key.namespace == here else str(key) for key in keys]
        return offered + [f"node/{name}" for name in _names(ctx, NODES)]

    return _offer(incomplete, words)


def objects(ctx: Context, incomplete: str) -> list[str]:
    """``TYPE``, then names of objects of this type; or ``TYPE/NAME``."""
    from kmn.k8s.resources import ALL, by_word

    def words() -> list[str]:
        before: list[str] = ctx.params.get("what") or []
        word, slash, _ = incomplete.partition("/")
        if not before and not slash:
            return sorted({resource.plural for resource in ALL})
        resource = next(by_word(word if slash else before[0]))
        namespace = (ctx.params.get("namespace") or "default") if resource.namespaced else ""
        return [f"{word}/{name}" if slash else name for name in _names(ctx, resource, namespace)]

    return _offer(incomplete, words)
