"""The flows and groups that one scope should have, put together from the contributions of many objects.

A *scope* is one bridge, or all nodes' bridges. An object's contribution is replaced as a whole; what that changes for
the switches is collected until :meth:`Scope.take` hands it out, as the difference from what was handed out before.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from controller.openflow import wire
from controller.openflow.flow import Flow, FlowKey
from controller.openflow.group import Group

__all__ = ["Changes", "OwnerKey", "Scope"]

LOG = logging.getLogger(__name__)

# Kind, namespace, name: sorts, so that of two objects that want the same flow the same one always wins.
OwnerKey: TypeAlias = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Changes:
    """Packed messages, to be sent in this order: a flow never names a group that is not there."""

    groups: tuple[bytes, ...] = ()  # added and modified
    flows: tuple[bytes, ...] = ()  # added and replaced
    gone_flows: tuple[bytes, ...] = ()
    gone_groups: tuple[bytes, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.groups or self.flows or self.gone_flows or self.gone_groups)

    def __len__(self) -> int:
        return len(self.groups) + len(self.flows) + len(self.gone_flows) + len(self.gone_groups)

    @staticmethod
    def merge(parts: Iterable[Changes]) -> list[bytes]:
        """The messages of several changes in one order that is right for all."""
        parts = list(parts)
        return [
            *(message for part in parts for message in part.groups),
            *(message for part in parts for message in part.flows),
            *(message for part in parts for message in part.gone_flows),
            *(message for part in parts for message in part.gone_groups),
        ]


class _Contribution(NamedTuple):
    flows: dict[FlowKey, Flow]
    groups: dict[int, Group]


_NOTHING = _Contribution({}, {})


class Scope:
    """Desired flows and groups by key."""

    def __init__(self) -> None:
        self.flows: dict[FlowKey, Flow] = {}
        self.groups: dict[int, Group] = {}
        self._contributions: dict[OwnerKey, _Contribution] = {}
        self._holders: dict[FlowKey, OwnerKey] = {}
        self._contested: dict[FlowKey, set[OwnerKey]] = {}  # keys that more than one owner wants
        # What switches have of the keys that changed since the last take(); None: nothing.
        self._flows_before: dict[FlowKey, Flow | None] = {}
        self._groups_before: dict[int, Group | None] = {}
        self._everything: Changes | None = None

    @property
    def contested(self) -> Iterable[tuple[Flow, list[OwnerKey]]]:
        """Flows that several objects want, with these objects; the first one has it."""
        return [(self.flows[key], sorted(owners)) for key, owners in self._contested.items()]

    def contribute(self, owner: OwnerKey, flows: Iterable[Flow] = (), groups: Iterable[Group] = ()) -> None:
        """Replace what ``owner`` has in this scope."""
        new_flows = {flow.key: flow for flow in flows}
        new_groups = {group.id: group for group in groups}
        old_flows, old_groups = self._contributions.pop(owner, _NOTHING)
        if new_flows or new_groups:
            self._contributions[owner] = _Contribution(new_flows, new_groups)
        for key in old_flows:
            if key not in new_flows:
                self._release(key, owner)
        for key, flow in new_flows.items():
            if old_flows.get(key) != flow:
                self._claim(key, owner, flow)
        for number in old_groups:
            if number not in new_groups:
                self._groups_before.setdefault(number, self.groups.pop(number))
        for number, group in new_groups.items():
            if self.groups.get(number) != group:
                self._groups_before.setdefault(number, self.groups.get(number))
                self.groups[number] = group

    def put(self, flow: Flow) -> None:
        """Have a flow that only its maker can want, who also takes it away: nothing else is remembered of it."""
        self._set(flow.key, flow)

    def remove(self, flow: Flow) -> None:
        """Have a flow no more that was :meth:`put`, if it was; its actions do not matter."""
        if flow.key in self.flows:
            self._set(flow.key, None)

    def _set(self, key: FlowKey, flow: Flow | None) -> None:
        self._flows_before.setdefault(key, self.flows.get(key))
        if flow is None:
            del self.flows[key]
        else:
            self.flows[key] = flow

    def _claim(self, key: FlowKey, owner: OwnerKey, flow: Flow) -> None:
        holder = self._holders.get(key)
        if holder is not None and holder != owner:
            rivals = self._contested.setdefault(key, {holder})
            if owner not in rivals:
                rivals.add(owner)
                LOG.warning("%s and %s want the same flow, the first has it: %s", *sorted((holder, owner)), flow)
            if holder < owner:
                return
        self._holders[key] = owner
        self._set(key, flow)

    def _release(self, key: FlowKey, owner: OwnerKey) -> None:
        rivals = self._contested.get(key)
        if rivals is not None:
            rivals.discard(owner)
            if len(rivals) == 1:
                del self._contested[key]
        if self._holders[key] != owner:
            return
        if not rivals:
            del self._holders[key]
            self._set(key, None)
            return
        heir = min(rivals)
        self._holders[key] = heir
        self._set(key, self._contributions[heir].flows[key])

    def take(self) -> Changes:
        """What changed since the last time, packed."""
        flows_before, self._flows_before = self._flows_before, {}
        groups_before, self._groups_before = self._groups_before, {}
        groups, flows, gone_flows, gone_groups = [], [], [], []
        for number, old_group in groups_before.items():
            group = self.groups.get(number)
            if group == old_group:
                continue
            if group is None:
                gone_groups.append(wire.group_delete(number))
            else:
                groups.append(wire.group_add(group) if old_group is None else wire.group_modify(group))
        for key, old_flow in flows_before.items():
            flow = self.flows.get(key)
            if flow == old_flow:
                continue
            flows.append(wire.flow_add(flow)) if flow is not None else gone_flows.append(wire.flow_delete(*key))
        changes = Changes(tuple(groups), tuple(flows), tuple(gone_flows), tuple(gone_groups))
        if changes:
            self._everything = None
        return changes

    def everything(self) -> Changes:
        """All of it, for a switch that has nothing; packed once. Call :meth:`take` before."""
        if self._everything is None:
            groups = tuple([wire.group_add(group) for group in self.groups.values()])
            flows = tuple([wire.flow_add(flow) for flow in self.flows.values()])
            self._everything = Changes(groups, flows)
        return self._everything
