"""Whose a deciding flow is: names found again from cookies. Pure.

A name stays known when its object is gone: what was decided may be told later than that.
"""

from __future__ import annotations

from dataclasses import dataclass

from kmn.k8s.objects import Key
from kmn.openflow.cookie import feature_of, object_hash, object_of
from kmn.policy.flows import POLICY_FEATURE, isolation_name, rule_name
from kmn.policy.model import Direction, Policy
from kmn.policy.verdicts import Match

__all__ = ["Decider", "Deciders", "Isolation"]


@dataclass(frozen=True, slots=True)
class Isolation:
    """What no rule allows is denied to this pod."""

    pod: Key
    direction: Direction


Decider = Match | Isolation


class Deciders:
    """All rules and pods, by the hashes of their names."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, Direction], dict[str, Decider]] = {}

    def put_policy(self, policy: Policy) -> None:
        """A policy came, or changed."""
        for direction in Direction:
            for rule in policy.rules(direction) or ():
                self._put(direction, rule_name(policy, rule), Match(policy, rule))

    def put_pod(self, key: Key) -> None:
        """A pod came."""
        for direction in Direction:
            self._put(direction, isolation_name(str(key), direction), Isolation(key, direction))

    def _put(self, direction: Direction, name: str, decider: Decider) -> None:
        self._known.setdefault((object_hash(name), direction), {})[name] = decider

    def of(self, cookie: int, direction: Direction) -> tuple[Decider, ...]:
        """Whose a flow is; more than one where 28 bits do not tell names apart, none where the name is not known."""
        if feature_of(cookie) != POLICY_FEATURE:
            return ()
        return tuple(self._known.get((object_of(cookie), direction), {}).values())
