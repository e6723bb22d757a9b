"""The namespaces and pods of a store, for what is asked about a policy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kmn.apiserver.admission.templates import KINDS, pod_of
from kmn.apiserver.store import Store
from kmn.k8s.objects import Key, labels, name_of
from kmn.k8s.resources import ALL, NAMESPACES, PODS
from kmn.k8s.selectors import EVERYTHING, LabelSelector
from kmn.policy.selection import Member, named_ports

__all__ = ["StoreSurroundings"]

# Pods first: where there are some, nobody need look at what makes them.
_SOURCES = (PODS, *(resource for resource in ALL if resource.kind in KINDS and resource is not PODS))


class StoreSurroundings:
    """Implements :class:`kmn.policy.mistakes.Surroundings`; looks at the store when it is asked."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def namespaces(self) -> Mapping[str, Mapping[str, str]]:
        """Labels by name."""
        records = self._store.collections[NAMESPACES].records()
        return {name_of(record.object): labels(record.object) for record in records}

    def pods(self, namespace: str, selector: LabelSelector = EVERYTHING) -> Iterator[Member]:
        """Pods that policies concern, then the templates of those that workloads make."""
        for resource in _SOURCES:
            for record in self._store.collections[resource].records(namespace):
                pod = pod_of(record.object)
                pod_labels = (pod.get("metadata") or {}).get("labels") or {}
                if not selector.matches(pod_labels):
                    continue
                spec = pod.get("spec") or {}
                ended = resource is PODS and (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
                if not ended and not spec.get("hostNetwork"):
                    yield Member(Key(namespace, name_of(record.object)), pod_labels, (), "", named_ports(spec))
