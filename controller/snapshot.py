"""What is known of the API's objects, as views: by resource and key, slices also by Service, and what has changed.

For the parts that compute flows from objects (``cluster``, ``outside``). What views say is in ``views``,
``service_views`` and ``outside_views``; what follows from them is not known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from kmn.k8s.objects import Key

__all__ = ["Snapshot"]


class _Slice(Protocol):
    @property
    def service(self) -> Key:
        """The Service whose endpoints these are."""


SliceT = TypeVar("SliceT", bound=_Slice)


class Snapshot(Generic[SliceT]):
    """``resources`` are plural names as in the API. A view that is None is that of no object."""

    def __init__(self, resources: Iterable[str]) -> None:
        self.views: dict[str, dict[Key, Any]] = {resource: {} for resource in resources}
        self.slices: dict[Key, dict[Key, SliceT]] = {}  # by Service; none is empty
        self._dirty: dict[tuple[str, Key], None] = {}  # in order of arrival

    def put(self, resource: str, key: Key, view: Any) -> bool:
        """The view that an object has now; whether that is another one. A slice's change is its Service's."""
        views = self.views[resource]
        old = views.get(key)
        if old == view:
            return False
        if view is None:
            del views[key]
        else:
            views[key] = view
        if resource != "endpointslices":
            self.touch(resource, key)
            return True
        if old is not None:
            slices = self.slices[old.service]
            del slices[key]
            if not slices:
                del self.slices[old.service]
            self.touch("services", old.service)
        if view is not None:
            self.slices.setdefault(view.service, {})[key] = view
            self.touch("services", view.service)
        return True

    def slices_of(self, service: Key) -> Sequence[SliceT]:
        return tuple(self.slices.get(service, {}).values())

    def touch(self, resource: str, key: Key) -> None:
        """Something that an object's flows follow from has changed."""
        self._dirty[resource, key] = None

    def take_changed(self) -> list[tuple[str, Key]]:
        """Resource and key of what has changed since the last call, each once."""
        changed, self._dirty = list(self._dirty), {}
        return changed
