"""``kmn policy counters``: what each rule has allowed and denied so far, on all nodes."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from kmn.cli.output import dump, print_rows
from kmn.cluster import Cluster
from kmn.cluster_spec import ClusterSpec, PolicySpec
from kmn.errors import UserError
from kmn.k8s.client import Client
from kmn.k8s.dataplane import BRIDGE
from kmn.k8s.objects import key_of, name_of
from kmn.k8s.resources import CLUSTERS, NODES
from kmn.naming import Paths
from kmn.openflow.counts import flow_counts
from kmn.openflow.messages import FlowCount
from kmn.policy.counters import Row, rows
from kmn.policy.flows import POLICY_FEATURE
from kmn.policy.world import World

__all__ = ["settings_of", "show"]

_FORMS = ("table", "json", "yaml")
_HEADER = ("POLICY", "RULE", "VERDICT", "CONNECTIONS", "PACKETS", "BYTES")
_AT_ONCE = 32  # switches


def show(namespace: str | None, form: str, cluster: str | None) -> int:
    """Print the counters; 1 where a node's are missing."""
    if form not in _FORMS:
        raise UserError(f"-o {form}: not known", ", ".join(_FORMS))
    with Cluster.attach(cluster) as running:
        client = running.client
        world = _world(client)
        judged_always = settings_of(client).established == "cut"
        nodes = [name_of(node) for node in client.list(NODES).items]
        counts, silent = asyncio.run(_counts(running.paths, nodes))
    for node, problem in silent:
        print(f"kmn: {node}: its switch does not answer, its counts are missing: {problem}", file=sys.stderr)
    found = [row for row in rows(world, counts) if namespace is None or row.concerns(namespace)]
    if form != "table":
        dump([_without_connections(row.as_json()) if judged_always else row.as_json() for row in found], form)
    elif found:
        print_rows(_HEADER, [_cells(row, connections=not judged_always) for row in found])
    else:
        print("no policies" + (f" in namespace {namespace}" if namespace else ""))
    if judged_always:
        print("kmn: connections are not counted with policy.establishedConnections: cut: all packets are judged",
              file=sys.stderr)  # fmt: skip
    return 1 if silent else 0


def _world(client: Client) -> World:
    """What is there now."""
    world = World()
    for resource in World.resources:
        for obj in client.list(resource).items:
            world.put(resource, key_of(obj), obj)
    return world


def settings_of(client: Client) -> PolicySpec:
    """How the cluster file says that policies are enforced."""
    return ClusterSpec.from_object(client.list(CLUSTERS).items[0]).policy


async def _counts(paths: Paths, nodes: list[str]) -> tuple[list[FlowCount], list[tuple[str, OSError]]]:
    """Of all nodes' bridges; and the nodes whose switches did not answer."""
    limit = asyncio.Semaphore(_AT_ONCE)

    async def of(node: str) -> list[FlowCount]:
        async with limit:
            return await flow_counts(paths.ovs(node), BRIDGE, POLICY_FEATURE)

    answers = await asyncio.gather(*map(of, nodes), return_exceptions=True)
    counts: list[FlowCount] = []
    silent: list[tuple[str, OSError]] = []
    for node, answer in zip(nodes, answers, strict=True):
        if isinstance(answer, OSError):
            silent.append((node, answer))
        elif isinstance(answer, BaseException):
            raise answer
        else:
            counts += answer
    return counts, silent


def _cells(row: Row, *, connections: bool) -> list[str]:
    shown = str(row.connections) if connections else "-"
    return [row.owner, row.what, row.verdict, shown, str(row.packets), str(row.bytes)]


def _without_connections(shown: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in shown.items() if name != "connections"}
