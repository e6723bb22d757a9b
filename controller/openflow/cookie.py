"""Cookies of the controller's flows (``kmn.openflow.cookie`` has their parts).

With a hash of what a flow does in it, a restarted controller sees from key and cookie alone whether it is up to date.
"""

from __future__ import annotations

from controller.openflow.actions import Actions
from controller.openflow.flow import Flow
from controller.openflow.match import Match
from kmn.openflow.cookie import base_mask, base_of, content_of, feature_of, object_hash, object_of

__all__ = ["Owner", "base_mask", "content_of", "feature_of", "object_hash", "object_of"]


class Owner:
    """Makes flows in the name of one feature and one object."""

    __slots__ = ("_base", "name")

    def __init__(self, feature: int, name: str) -> None:
        self.name = name
        self._base = base_of(feature, name)

    @property
    def base(self) -> int:
        """The bits that all cookies of these flows have in common."""
        return self._base

    def cookie(self, feature: int, content: int) -> int:
        """A cookie of another feature in the name of the same object."""
        return base_of(feature, self.name) | content_of(content)

    def flow(self, table: int, priority: int, match: Match, actions: Actions) -> Flow:
        return Flow(table, priority, match, actions, self._base | actions.digest)
