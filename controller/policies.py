"""Policies, pods, nodes and namespaces as they come and go, and the flows on nodes' bridges that follow. Pure.

There are two programs over one selection: of what is in force, and, while there are policies that are only tried out,
of what would be if they were.
"""

from __future__ import annotations

from collections.abc import Callable

from controller.desired import Scope
from controller.family import V4, V6, Family
from controller.features.policy import STAGED_WAYS, WAYS
from controller.numbering import Numbering
from controller.podsets import Place
from controller.policy_program import PolicyKey, Program, Settings
from kmn.k8s.objects import Key, Object
from kmn.policy.model import Log, Policy
from kmn.policy.selection import Changed, Selection, member_of, node_member_of

__all__ = ["Policies"]


class Policies:
    """All of them. ``scope_of`` gives a node's scope."""

    def __init__(self, scope_of: Callable[[str], Scope]) -> None:
        self._selection = Selection()
        self._places: dict[Key, Place] = {}
        self._policies: dict[PolicyKey, Policy] = {}
        self._changed_policies: dict[PolicyKey, None] = {}
        self._changed: Changed = {}
        self._families: tuple[Family, ...] = (V4,)  # that pods have
        self._log = Log.DENIED
        numbers = Numbering()
        self._enforced, self._staged = (
            Program(ways, self._selection, self._places.get, scope_of, numbers) for ways in (WAYS, STAGED_WAYS)
        )
        self._tried: set[PolicyKey] = set()  # policies that are only tried out
        self._trying = False  # there were such at the last computation

    # What happens.

    def put_pod(self, key: Key, obj: Object | None, place: Place | None) -> None:
        """A pod came, changed or (None) went. ``place`` is None for one that has no port on a bridge."""
        moved = self._places.get(key) != place
        if place is None:
            self._places.pop(key, None)
        else:
            self._places[key] = place
        member = member_of(obj) if obj is not None else None
        if member is not None and V6 not in self._families and any(each.version == 6 for each in member.addresses):
            self._families = (V4, V6)
        changed = self._selection.set_member(key, member)
        if moved:
            changed |= {group: {key} for group in self._selection.groups_of(key)}
        self._note(changed)

    def put_node(self, key: Key, obj: Object | None) -> None:
        """A node came, changed or (None) went."""
        self._note(self._selection.set_member(key, node_member_of(obj) if obj is not None else None))

    def put_namespace(self, name: str, its_labels: dict[str, str] | None) -> None:
        """A namespace came, was labelled anew or (None) went."""
        if its_labels is not None or name in self._selection.namespaces:
            self._note(self._selection.set_namespace(name, its_labels))

    def put_policy(self, kind: str, key: Key, policy: Policy | None) -> None:
        """A policy came, changed or (None) went."""
        named = PolicyKey(kind, key)
        if self._policies.get(named) == policy:
            return
        if policy is None:
            del self._policies[named]
        else:
            self._policies[named] = policy
        (self._tried.add if policy is not None and policy.staged else self._tried.discard)(named)
        self._changed_policies[named] = None

    def set_log(self, log: Log) -> None:
        """Which verdicts are told."""
        self._log = log

    def _note(self, changed: Changed) -> None:
        for group, keys in changed.items():
            self._changed.setdefault(group, set()).update(keys)

    def known(self, resource: str) -> list[Key]:
        """Keys of the pods or namespaces that are there."""
        match resource:
            case "pods":
                return [key for key in {**self._selection.members, **self._places} if key.namespace]
            case "namespaces":
                return [Key("", name) for name in self._selection.namespaces]
        return []

    # What follows.

    def compute(self) -> None:
        """Bring the nodes' scopes up to date."""
        policies, self._changed_policies = self._changed_policies, {}
        changed, self._changed = self._changed, {}
        now = {key: self._policies.get(key) for key in policies}
        settings = Settings(self._families, self._log)
        in_force = {key: policy if policy is None or not policy.staged else None for key, policy in now.items()}
        self._enforced.compute(in_force, changed, settings)
        trying = bool(self._tried)
        if trying and not self._trying:
            self._staged.compute(self._policies, {}, settings)
        elif trying:
            self._staged.compute(now, changed, settings)
        elif self._trying:
            self._staged.compute(dict.fromkeys({**self._policies, **now}), changed, settings)
        self._trying = trying
