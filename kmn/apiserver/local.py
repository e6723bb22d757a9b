"""The API inside the cluster's own process: no network, no copies, and subscriptions instead of watches."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from kmn.apiserver.admission_api import Admission
from kmn.apiserver.lifecycle import GarbageCollector, NamespaceLifecycle
from kmn.apiserver.patch import change_of
from kmn.apiserver.registry import DeleteOptions, Propagation, Registry
from kmn.apiserver.store import Event, Store
from kmn.k8s.client import Listing, PatchType, WatchEvent
from kmn.k8s.objects import Object
from kmn.k8s.objects import labels as labels_of
from kmn.k8s.resources import Resource
from kmn.k8s.selectors import parse_fields, parse_labels

__all__ = ["LocalClient"]


class LocalClient:
    """Implements :class:`kmn.k8s.client.Client` on a store; its writes are trusted.

    It belongs to the store's thread. ``registry`` is what the API server builds on.
    """

    def __init__(self, store: Store, admission: Admission) -> None:
        self.store = store
        self.registry = Registry(store, admission)
        self._subscribers: dict[Resource, list[_Subscription]] = {}
        store.observers.append(self._observe)
        GarbageCollector(self.registry)
        NamespaceLifecycle(self.registry)

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """One object. Raises NotFound."""
        return self.registry.record(resource, namespace, name).object

    def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> Listing:
        """Objects of one namespace, or of all, by namespace and name."""
        collection = self.store.collections[resource]
        items = [record.object for record in collection.records(namespace)]
        if label_selector:
            labels = parse_labels(label_selector)
            items = [item for item in items if labels.matches(labels_of(item))]
        if field_selector:
            fields = parse_fields(field_selector, resource.kind)
            items = [item for item in items if fields.matches(item)]
        return Listing(items, str(collection.version))

    def create(self, obj: Object) -> Object:
        """Create and return the stored object."""
        return self.registry.create(obj, trusted=True).object

    def update(self, obj: Object, *, subresource: Literal["status"] | None = None) -> Object:
        """Replace an object, or its status."""
        return self.registry.update(obj, subresource=subresource, trusted=True).object

    def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        patch: Any,
        *,
        patch_type: PatchType = "merge",
        subresource: Literal["status"] | None = None,
    ) -> Object:
        """Change fields of the current object."""
        change = change_of(patch, patch_type)
        return self.registry.patch(resource, namespace, name, change, subresource=subresource, trusted=True).object

    def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        *,
        grace_seconds: int | None = None,
        propagation: Propagation = "Background",
        uid: str | None = None,
    ) -> None:
        """Delete, or mark for deletion what has to end first."""
        self.registry.delete(resource, namespace, name, DeleteOptions(grace_seconds, propagation, uid))

    def owned_by(self, uid: str) -> builtins.list[Object]:
        """Objects that name this uid among their owners."""
        return [self.registry.record(*where).object for where in self.store.owned_by(uid)]

    def subscribe(
        self, resource: Resource, callback: Callable[[WatchEvent], None], *, replay: bool = True
    ) -> Callable[[], None]:
        """Call ``callback`` with each change of a resource from now on; the result ends it.

        With ``replay`` the present objects come first, as ADDED. Calls come from the loop, in the order of the
        changes over all resources, never from within a write. A DELETED event carries the last state.
        """
        subscription = _Subscription(callback)
        self._subscribers.setdefault(resource, []).append(subscription)
        if replay:
            for record in self.store.collections[resource].records():
                self.store.defer(partial(subscription.deliver, WatchEvent("ADDED", record.object)))

        def cancel() -> None:
            if subscription.active:
                subscription.active = False
                self._subscribers[resource].remove(subscription)

        return cancel

    def _observe(self, resource: Resource, event: Event) -> None:
        subscribers = self._subscribers.get(resource)
        if subscribers:
            delivered = WatchEvent(event.type, event.record.object)
            for subscription in subscribers:
                self.store.defer(partial(subscription.deliver, delivered))


class _Subscription:
    __slots__ = ("_callback", "active")

    def __init__(self, callback: Callable[[WatchEvent], None]) -> None:
        self._callback = callback
        self.active = True

    def deliver(self, event: WatchEvent) -> None:
        if self.active:
            self._callback(event)
