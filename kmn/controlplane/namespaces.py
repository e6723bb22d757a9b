"""What every namespace has from the start: the ServiceAccount ``default`` and the ConfigMap ``kube-root-ca.crt``.

Upstream: the service account controller and the root CA publisher.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kmn.controlplane.podstate import terminating
from kmn.controlplane.runtime import LoopClient, Reconciler
from kmn.controlplane.workloads.ownership import get_or_none
from kmn.k8s.client import WatchEvent
from kmn.k8s.objects import Key, Object, key_of
from kmn.k8s.resources import CONFIGMAPS, NAMESPACES, SERVICEACCOUNTS, Resource

__all__ = ["NamespaceContents"]

_ROOT_CA = "kube-root-ca.crt"


class NamespaceContents(Reconciler[Key]):
    """Makes the objects, and again when somebody deletes them. ``root_ca`` gives the certificate (PEM)."""

    component = "namespace-contents"

    def __init__(self, client: LoopClient, root_ca: Callable[[], str]) -> None:
        super().__init__(client)
        self._root_ca = root_ca

    def watches(self) -> Iterable[tuple[Resource, Callable[[WatchEvent], None]]]:
        return (
            (NAMESPACES, self._on_namespace),
            (SERVICEACCOUNTS, self._on_content),
            (CONFIGMAPS, self._on_content),
        )

    def subject(self, key: Key) -> Object | None:
        return get_or_none(self.client, NAMESPACES, key)

    def reconcile(self, key: Key) -> None:
        namespace = get_or_none(self.client, NAMESPACES, key)
        if namespace is None or terminating(namespace):
            return
        if get_or_none(self.client, SERVICEACCOUNTS, Key(key.name, "default")) is None:
            meta = {"name": "default", "namespace": key.name}
            self.client.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})
        if get_or_none(self.client, CONFIGMAPS, Key(key.name, _ROOT_CA)) is None:
            meta = {"name": _ROOT_CA, "namespace": key.name}
            data = {"ca.crt": self._root_ca()}
            self.client.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data})

    def _on_namespace(self, event: WatchEvent) -> None:
        if event.type == "ADDED":
            self.queue.add(key_of(event.object))

    def _on_content(self, event: WatchEvent) -> None:
        if event.type == "DELETED" and event.object["metadata"]["name"] in ("default", _ROOT_CA):
            self.queue.add(Key("", key_of(event.object).namespace))
