"""What policies mean for very many pods, computed without a data plane: time and memory of a process of its own.

``selected``: from objects to who is in which group (of those that policies are about, and of peers) and which nodes
need which policy. That is what Antrea's controller does at its start, and what its published figures cover; how rules
become flows is its agents' business. ``flows``: the same and all flows of all nodes, packed for none yet.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from benchmarks import policyworlds
from benchmarks.policyworlds import World
from controller.desired import Scope
from controller.podsets import Place
from controller.policies import Policies
from kmn import garbage
from kmn.k8s.objects import key_of, labels, name_of
from kmn.policy.model import Direction, Tier, network_policy
from kmn.policy.selection import Selection, member_of
from kmn.policy.verdicts import Judge

__all__ = ["SHAPES", "Scale", "measure"]

SHAPES: Mapping[str, Callable[[int], World]] = {
    "small namespaces": policyworlds.small_namespaces,
    "large namespaces": policyworlds.large_namespaces,
    "one namespace": policyworlds.one_namespace,
}


@dataclass(frozen=True, slots=True)
class Scale:
    """What one run found."""

    namespaces: int
    pods: int
    policies: int
    seconds: float
    peak: float  # MB, resident, of the whole process
    objects: float  # MB of it before the computing began: Python and the objects
    results: int  # nodes that need a policy, over all that are about different pods; or flows over all nodes


def measure(shape: str, count: int, what: str) -> Scale:
    """Compute ``what`` (``selected`` or ``flows``) of a world in a process of its own."""
    argv = [sys.executable, "-m", "benchmarks.policyscale", shape, str(count), what]
    return Scale(**json.loads(subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout))


def _selected(world: World) -> int:
    judge = Judge(selection := Selection())
    for obj in world.namespaces:
        selection.set_namespace(name_of(obj), labels(obj))
    for obj in world.pods:
        selection.set_member(key_of(obj), member_of(obj))
    for obj in world.policies:
        judge.set_policy(network_policy(obj))
    subjects = {subject for direction in Direction for subject, _ in judge.resolved(Tier.NETWORK_POLICY, direction)}
    return sum(len({member.node for member in subject.members.values()}) for subject in subjects)


def _flows(world: World) -> int:
    scopes: dict[str, Scope] = {}
    policies = Policies(lambda node: scopes.setdefault(node, Scope()))
    for obj in world.namespaces:
        policies.put_namespace(name_of(obj), labels(obj))
    for ofport, obj in enumerate(world.pods):
        policies.put_pod(key_of(obj), obj, Place(obj["spec"]["nodeName"], 10 + ofport))
    for obj in world.policies:
        policies.put_policy("NetworkPolicy", key_of(obj), network_policy(obj))
    policies.compute()
    return sum(len(scope.flows) for scope in scopes.values())


_WHAT: Mapping[str, Callable[[World], int]] = {"selected": _selected, "flows": _flows}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    shape, count, what = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    world = SHAPES[shape](count)
    objects = _peak()
    garbage.spread()  # as the controller does
    start = time.perf_counter()
    results = _WHAT[what](world)
    seconds = time.perf_counter() - start
    sizes = (len(world.namespaces), len(world.pods), len(world.policies))
    json.dump(asdict(Scale(*sizes, seconds, _peak(), objects, results)), sys.stdout)


if __name__ == "__main__":
    main()
