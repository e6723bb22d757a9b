"""What the controller and the command line agree on about flows of policies: their tables, and whose name they carry.

The flow that decides has a cookie of the rule's name, or of the pod's that is isolated. The controller makes the
flows; who listens or counts finds the name again among those of all policies and pods.
"""

from __future__ import annotations

from enum import IntEnum

from kmn.policy.model import Direction, Policy, Rule

__all__ = [
    "POLICY_FEATURE",
    "ISOLATED",
    "CountTable",
    "PolicyTable",
    "isolation_name",
    "isolation_names",
    "rule_name",
    "rules_of",
    "table_of",
]

POLICY_FEATURE = 8  # of these flows' cookies


class PolicyTable(IntEnum):
    """Numbers of the tables in which policies decide, by direction and tier (``controller.pipeline`` has all tables).

    In those called STAGED it is as if those policies were in force, too, that are only tried out.
    """

    STAGED_EGRESS_ADMIN = 36
    STAGED_EGRESS_POLICY = 37
    STAGED_EGRESS_BASELINE = 38
    EGRESS_ADMIN = 40
    EGRESS_POLICY = 42
    EGRESS_BASELINE = 44
    STAGED_INGRESS_ADMIN = 56
    STAGED_INGRESS_POLICY = 57
    STAGED_INGRESS_BASELINE = 58
    INGRESS_ADMIN = 64
    INGRESS_POLICY = 66
    INGRESS_BASELINE = 68

    @property
    def direction(self) -> Direction:
        return Direction.EGRESS if "EGRESS" in self.name else Direction.INGRESS

    @property
    def staged(self) -> bool:
        return self.name.startswith("STAGED_")


def table_of(number: int) -> PolicyTable | None:
    """None where no policies decide."""
    return _TABLES.get(number)


_TABLES = {int(table): table for table in PolicyTable}


class CountTable(IntEnum):
    """Numbers of the tables that count all packets of connections by the rule that let them out, and in."""

    EGRESS_COUNT = 78
    INGRESS_COUNT = 80


# Priority of the flow that denies what no rule allowed of an isolated pod. Others of the pod's name only let pass.
ISOLATED = 10


def rule_name(policy: Policy, rule: Rule) -> str:
    """``NetworkPolicy/default/web ingress[0]``."""
    return f"{policy.kind}/{policy.key} {rule.name}"


def rules_of(policy: Policy) -> list[str]:
    """Names that a policy's flows may carry."""
    return [rule_name(policy, rule) for direction in Direction for rule in policy.rules(direction) or ()]


def isolation_name(pod: str, direction: Direction) -> str:
    """Of flows of an isolated pod: ``Pod/default/web Ingress``."""
    return f"Pod/{pod} {direction.value}"


def isolation_names(pod: str) -> list[str]:
    """Names that flows of an isolated pod may carry."""
    return [isolation_name(pod, direction) for direction in Direction]
