"""The interface to the API that every part of kmn is written against.

Two things implement it: ``kmn.apiserver.local.LocalClient`` (inside the cluster's process, straight on the store) and
``kmn.k8s.rest.RestClient`` (everywhere else, over HTTPS). Reads return shared objects: see ``kmn.k8s.objects.draft``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from kmn.k8s.objects import Object
from kmn.k8s.resources import Resource

__all__ = ["Client", "Listing", "PatchType", "WatchEvent"]

PatchType = Literal["merge", "strategic", "json"]


@dataclass(frozen=True, slots=True)
class Listing:
    """A list and the point from which to watch.

    ``resource_version`` is that of the *last change of this resource* (deletions included), not of the whole store:
    a consumer that has seen it has seen everything that the list shows.
    """

    items: list[Object]
    resource_version: str


class WatchEvent(NamedTuple):
    """``type`` is ADDED, MODIFIED, DELETED or BOOKMARK."""

    type: str
    object: Object


class Client(Protocol):
    """Requests on the API. All raise :class:`kmn.k8s.errors.ApiError`; the calls below do not block on the network
    in the local implementation."""

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """One object; ``namespace`` is "" for cluster-scoped resources. Raises NotFound."""
        ...

    def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> Listing:
        """Objects of one namespace, or of all (None)."""
        ...

    def create(self, obj: Object) -> Object:
        """Create and return the stored object. ``metadata.generateName`` is honoured. Raises AlreadyExists."""
        ...

    def update(self, obj: Object, *, subresource: Literal["status"] | None = None) -> Object:
        """Replace. Raises Conflict when ``metadata.resourceVersion`` is set and not the current one.

        Without a subresource ``status`` is kept as stored; with ``status`` everything but status, labels and
        annotations is kept as stored (as the API server does for pods, here for all kinds). Nothing changes, and no
        event is sent, when the result equals what is stored.
        """
        ...

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
        ...

    def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        *,
        grace_seconds: int | None = None,
        propagation: Literal["Background", "Foreground", "Orphan"] = "Background",
        uid: str | None = None,
    ) -> None:
        """Delete. A bound pod is marked (``deletionTimestamp``) and goes when its kubelet deletes it again with
        ``grace_seconds=0``; ``uid`` is a precondition (Conflict when another object has the name now)."""
        ...
