"""What policies have decided so far, rule by rule: counts of the flows that decide, of all nodes, added up. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from kmn.k8s.objects import Key
from kmn.openflow.cookie import object_hash, object_of
from kmn.openflow.messages import FlowCount
from kmn.policy.flows import ISOLATED, CountTable, isolation_name, rule_name, table_of
from kmn.policy.model import Action, Direction, Policy, Rule
from kmn.policy.verdicts import default_deny, rank
from kmn.policy.world import World

__all__ = ["Row", "rows"]

# Where a flow counts: among what is tried out, of a direction, by the hash of a name.
_Place: TypeAlias = tuple[bool, Direction, int]

_COUNTING = {int(CountTable.EGRESS_COUNT): Direction.EGRESS, int(CountTable.INGRESS_COUNT): Direction.INGRESS}
_WORDS = {Action.ALLOW: "allowed", Action.DENY: "denied", Action.PASS: "passed on"}


@dataclass(slots=True)
class Row:
    """Of a rule; or of what no rule allowed of a ``pod`` that ``policies`` isolate."""

    direction: Direction
    action: Action
    staged: bool
    policies: tuple[Policy, ...]
    rule: Rule | None = None
    pod: Key | None = None
    connections: int = 0  # attempts, where they are denied
    packets: int = 0
    bytes: int = 0

    @property
    def verdict(self) -> str:
        return f"would be {_WORDS[self.action]}" if self.staged else _WORDS[self.action]

    @property
    def owner(self) -> str:
        """The policy, or policies."""
        if len(self.policies) == 1:
            return str(self.policies[0])
        return f"NetworkPolicies {', '.join(str(policy.key) for policy in self.policies)}"

    @property
    def what(self) -> str:
        """The rule, or the pod whose default it is."""
        return self.rule.name if self.rule is not None else f"default, {self.direction.value.lower()} of pod {self.pod}"

    def concerns(self, namespace: str) -> bool:
        """Whether it is about policies of a namespace."""
        return any(policy.key.namespace == namespace for policy in self.policies)

    def as_json(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"policies": [str(policy) for policy in self.policies]}
        if self.rule is not None:
            shown["rule"] = self.rule.name
        if self.pod is not None:
            shown |= {"pod": str(self.pod), "reason": default_deny(self.policies)}
        return shown | {
            "direction": self.direction.value.lower(),
            "verdict": _WORDS[self.action],
            "staged": self.staged,
            "connections": self.connections,
            "packets": self.packets,
            "bytes": self.bytes,
        }


def rows(world: World, counts: Iterable[FlowCount]) -> list[Row]:
    """A row for each rule, and for each isolated pod that something was denied to or from for want of a rule.

    Of rules that allow, packets and bytes are those of their connections, in both directions; of all others those that
    the rule itself has met.
    """
    ruled = _rules(world)
    isolated = _pods(world)
    denied: dict[_Place, Row] = {}
    for count in counts:
        table, counting = table_of(count.table), _COUNTING.get(count.table)
        staged = table is not None and table.staged
        direction = table.direction if table is not None else counting
        if direction is None:
            continue
        place = (staged, direction, object_of(count.cookie))
        row = ruled.get(place)
        if row is None and table is not None and count.priority == ISOLATED and count.packets:
            pod = isolated.get(place[1:])
            policies = world.isolating(pod, direction, staged=staged) if pod is not None else ()
            if not staged or any(policy.staged for policy in policies):
                row = denied.setdefault(place, Row(direction, Action.DENY, staged, policies, pod=pod))
        if row is None:
            continue
        if table is not None:
            row.connections += count.packets
        if table is None or staged or row.action is not Action.ALLOW:
            row.packets += count.packets
            row.bytes += count.bytes
    return [*ruled.values(), *sorted(denied.values(), key=lambda row: (row.owner, row.what))]


def _rules(world: World) -> dict[_Place, Row]:
    """Rules of policies in force in their tables, of those that are tried out in the others."""
    policies = sorted(world.judge.policies, key=lambda each: (each.tier, rank(each), each.key))
    return {
        (policy.staged, direction, object_hash(rule_name(policy, rule))): Row(
            direction, rule.action, policy.staged, (policy,), rule
        )
        for policy in policies
        for direction in Direction
        for rule in policy.rules(direction) or ()
    }


def _pods(world: World) -> dict[tuple[Direction, int], Key]:
    return {
        (direction, object_hash(isolation_name(str(key), direction))): key
        for key in world.selection.members
        if key.namespace  # others are nodes
        for direction in Direction
    }
