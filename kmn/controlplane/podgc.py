"""Pods of nodes that are gone: nobody is left to end them, so they are removed.

As upstream's ``pkg/controller/podgc`` (``gcOrphaned``), at once instead of after a quarantine of 40 seconds: a node
goes only because somebody deletes it. A pod that waits for a node by name (``spec.nodeName``) is left waiting.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from kmn.controlplane.podstate import node_of
from kmn.controlplane.runtime import LoopClient, Reconciler
from kmn.controlplane.workloads.ownership import get_or_none
from kmn.k8s.client import WatchEvent
from kmn.k8s.objects import Key, key_of, name_of, uid_of
from kmn.k8s.resources import NODES, PODS, Resource

__all__ = ["PodGarbageCollector"]


class PodGarbageCollector(Reconciler[Key]):
    """Deletes the pods of deleted nodes. Keys are nodes."""

    component = "pod-garbage-collector"

    def __init__(self, client: LoopClient) -> None:
        super().__init__(client)
        self._by_node: defaultdict[str, dict[Key, None]] = defaultdict(dict)

    def watches(self) -> Iterable[tuple[Resource, Callable[[WatchEvent], None]]]:
        return ((PODS, self._on_pod), (NODES, self._on_node))

    def reconcile(self, key: Key) -> None:
        if get_or_none(self.client, NODES, key) is not None:
            return
        for pod_key in list(self._by_node.get(key.name, ())):
            pod = get_or_none(self.client, PODS, pod_key)
            if pod is not None and node_of(pod) == key.name:
                self.recorder.event(pod, "Warning", "NodeDeleted", f"node {key.name} was deleted, and its pods with it")
                self.client.delete(PODS, *pod_key, grace_seconds=0, uid=uid_of(pod))

    def _on_pod(self, event: WatchEvent) -> None:
        node, key = node_of(event.object), key_of(event.object)
        if event.type == "DELETED":
            pods = self._by_node.get(node, {})
            pods.pop(key, None)
            if not pods:
                self._by_node.pop(node, None)
        elif node:
            self._by_node[node][key] = None

    def _on_node(self, event: WatchEvent) -> None:
        if event.type == "DELETED":
            self.queue.add(Key("", name_of(event.object)))
