"""How Services choose among their endpoints, as the cluster file's ``kubeProxy`` says. Pure.

``random`` is what kube-proxy's iptables and nftables modes do. The others are schedulers of IPVS, by their names there;
what they do is that of the kernel's ``net/netfilter/ipvs/ip_vs_*.c``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import Literal, cast

from controller.parsing import parse
from kmn.k8s.dataplane import IPVS_SCHEDULERS
from kmn.k8s.objects import Object

__all__ = ["RANDOM", "Balancing", "Scheduler", "cycle", "scheduler_of"]

Scheduler = Literal["random", "rr", "wrr", "lc", "wlc", "sh"]


@dataclass(frozen=True, slots=True)
class Balancing:
    """How one Service chooses."""

    scheduler: Scheduler = "random"
    sticky: bool = False  # session affinity: what was chosen stays the client's

    @property
    def in_turn(self) -> bool:
        """One endpoint after the other, rather than by a hash."""
        return self.scheduler in ("rr", "wrr", "lc", "wlc")

    @property
    def weighted(self) -> bool:
        """Pods have weights."""
        return self.scheduler in ("wrr", "wlc")

    @property
    def leveled(self) -> bool:
        """Endpoints that have few connections get more of the new ones."""
        return self.scheduler in ("lc", "wlc")

    @property
    def by_address(self) -> bool:
        """What a client gets depends on its address: its port must not tell groups apart."""
        return self.sticky or self.scheduler == "sh"


RANDOM = Balancing()


def scheduler_of(cluster: Object) -> Scheduler:
    """What a Cluster object says; without a word, kube-proxy's default."""
    wish = (cluster.get("spec") or {}).get("kubeProxy") or {}
    if wish.get("mode") != "ipvs":
        return "random"
    field = "spec.kubeProxy.ipvs.scheduler"
    given = (wish.get("ipvs") or {}).get("scheduler", IPVS_SCHEDULERS[0])
    return parse(cluster, field, _scheduler, given, f"one of {', '.join(IPVS_SCHEDULERS)}")


def _scheduler(value: object) -> Scheduler:
    if value not in IPVS_SCHEDULERS:
        raise ValueError(value)
    return cast("Scheduler", value)


def cycle(weights: Sequence[int]) -> tuple[int, ...]:
    """The order in which weighted round robin chooses, by index, until it begins anew.

    IPVS goes round with a bar that starts at the largest weight and sinks by their greatest common divisor: who has at
    least that much is chosen. Equal weights give plain round robin.
    """
    if not weights:
        return ()
    return tuple(
        index for bar in range(max(weights), 0, -gcd(*weights)) for index, weight in enumerate(weights) if weight >= bar
    )
