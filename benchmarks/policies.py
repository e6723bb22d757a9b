"""NetworkPolicy at scale: a thousand policies put in force, one label's change, what they cost connections.

Policies are those of teams (``policyworlds``). A change is timed from the first API request until the bridges of all
nodes have confirmed it (``DataPlane`` observed). Connections are measured between the same pods of two clusters that
run side by side, one with all policies and one with none, in paired rounds; the client may ask the server by a rule
of three dimensions at either end. What policies mean for pods by the hundred thousand is computed without a data plane.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks import http, policyscale, policyworlds, workload
from benchmarks.iperf import tcp_gbps
from benchmarks.report import Row, show
from benchmarks.rounds import in_turn, paired_ratio, percentile
from kmn import Cluster
from kmn.k8s.dataplane import DATAPLANE_NAME
from kmn.k8s.objects import Object, labels, name_of, namespace_of
from kmn.k8s.resources import DATAPLANES, NETWORKPOLICIES, PODS
from kmn.machine import Machine

__all__ = ["main"]

_TEAMS = 5
_HTTP, _BULK = policyworlds.PORTS
_FORGOTTEN = 25  # seconds until switches have forgotten the connections of the round before, as in ``paths``
# What Antrea publishes for a shape, of another machine.
_ANTREA = {"small namespaces": "Antrea's own figure: 5.8 to 6.4 s", "one namespace": "Antrea's own figure: 10.7 s"}


def main(*, quick: bool = False, json_file: Path | None = None) -> None:
    http.require()
    nodes, pods, count, changes, rounds = (3, 100, 100, 10, 1) if quick else (20, 1000, 1000, 60, 7)
    with _pair(nodes, pods) as (cluster, bare):
        rows = _in_force(cluster, count)
        rows += _label_changes(cluster, changes)
        rows += _connections(cluster, bare, rounds)
    title = f"NetworkPolicies: {count:,} over {pods:,} pods on {nodes} nodes"
    show(title, rows, json_file=json_file)
    show("NetworkPolicies computed, without a data plane", _scale(quick), json_file=json_file)


@contextmanager
def _pair(nodes: int, pods: int) -> Iterator[tuple[Cluster, Cluster]]:
    """A cluster of teams whose policies are yet to come, and one of two such nodes that never gets any. Both have a
    client with servers on its own and on another node, in pods of the first team."""
    name = f"pol{os.getpid()}"
    with Cluster(workload.cluster(name, nodes)) as cluster, Cluster(workload.cluster(f"{name}b", 2)) as bare:
        for each in (cluster, bare):
            each.apply(
                *[policyworlds.namespace(policyworlds.team(n), team=policyworlds.team(n)) for n in range(_TEAMS)]
            )
            places = (("client", "n1", 0), ("near", "n1", 1), ("far", "n2", 1))
            each.apply(*[_place(*place) for place in places])
            mine = pods if each is cluster else 2 * pods // nodes
            each.apply(*policyworlds.deployments(_TEAMS, mine - len(places)))
        bare.wait_ready()
        cluster.wait_ready(300)
        yield cluster, bare


def _place(name: str, node: str, app: int) -> Object:
    """A pod of a team's app, without a program."""
    pod: Object = workload.place(name, node)
    its_labels = {"app": policyworlds.app_of(app), "tier": "none", "role": "none"}
    pod["metadata"] |= {"namespace": policyworlds.team(0), "labels": its_labels}
    return pod


# --- in force ---------------------------------------------------------------------------------------------------------


def _observed(cluster: Cluster, resource: str) -> int:
    return int(cluster.client.get(DATAPLANES, "", DATAPLANE_NAME)["status"]["observed"].get(resource, 0))


def _switch_flows(cluster: Cluster) -> int:
    status = cluster.client.get(DATAPLANES, "", DATAPLANE_NAME)["status"]
    return sum(node["flows"] for node in status["nodes"])


def _in_force(cluster: Cluster, count: int) -> list[Row]:
    policies = list(policyworlds.policies(_TEAMS, count))
    flows = _switch_flows(cluster)
    start = time.perf_counter()
    for policy in policies:
        version = int(cluster.client.create(policy)["metadata"]["resourceVersion"])
    requested = time.perf_counter() - start
    while _observed(cluster, NETWORKPOLICIES.plural) < version:
        time.sleep(0.002)
    seconds = time.perf_counter() - start
    return [
        Row(f"{count:,} policies: from the first API request to in force on all nodes", seconds, "s", wanted="< 2"),
        Row("of which API requests, one after the other", requested, "s"),
        Row("their flows on all switches", _switch_flows(cluster) - flows, ""),
    ]


def _label_changes(cluster: Cluster, changes: int) -> list[Row]:
    """Pods in turn become, and are no more, what monitoring is known by: a peer of rules on all nodes."""
    pods = [pod for pod in cluster.client.list(PODS, policyworlds.team(1)).items if "role" in labels(pod)]
    samples = []
    for number in range(changes):
        pod, role = pods[number // 2 % len(pods)], ("monitoring", "none")[number % 2]
        patch = {"metadata": {"labels": {"role": role}}}
        start = time.perf_counter()
        made = cluster.client.patch(PODS, namespace_of(pod), name_of(pod), patch)
        version = int(made["metadata"]["resourceVersion"])
        while _observed(cluster, PODS.plural) < version:
            pass
        samples.append(time.perf_counter() - start)
    p99 = percentile(samples, 99)
    return [
        Row(f"a pod's label changed, {changes} times: to in force, p50", statistics.median(samples) * 1e3, "ms"),
        Row("the same, p99", p99 * 1e3, "ms", wanted="< 50"),
    ]


# --- connections ------------------------------------------------------------------------------------------------------


def _connections(cluster: Cluster, bare: Cluster, rounds: int) -> list[Row]:
    with ExitStack() as stack:
        measures: dict[tuple[str, str, str], Callable[[], float]] = {}
        for which, each in (("policies", cluster), ("none", bare)):
            client = each.pod("client", policyworlds.team(0))
            http.client_ports(client.netns)
            for where, name in (("same node", "near"), ("across nodes", "far")):
                server = each.pod(name, policyworlds.team(0))
                stack.enter_context(http.serving(server.netns, [_HTTP]))
                measures["new connections", where, which] = _new(client, server)
                measures["one connection", where, which] = _established(client, server)
        # What is compared is measured one right after the other.
        ordered = dict(sorted(measures.items(), key=lambda item: item[0][:2]))
        samples = in_turn(ordered, rounds, seconds=_FORGOTTEN)
    rows = []
    for what, where, which in samples:
        if which == "policies":
            with_all, without = samples[what, where, "policies"], samples[what, where, "none"]
            unit = "/s" if what == "new connections" else "Gbit/s"
            ratio = paired_ratio(with_all, without)
            rows.append(Row(f"{what}, {where}", statistics.median(with_all), unit, "no policy", ratio, "≥ 0.95"))
    return rows


def _new(client: Machine, server: Machine) -> Callable[[], float]:
    def measure() -> float:
        load = http.load(client.netns, server.ip, _HTTP, 1, close=True)
        if load.errors:
            raise RuntimeError(f"{client} -> {server}: {load.errors} connections failed")
        return load.rate

    return measure


def _established(client: Machine, server: Machine) -> Callable[[], float]:
    return lambda: tcp_gbps(client.netns, server.netns, server.ip, 2, _BULK)


# --- without a data plane ---------------------------------------------------------------------------------------------


def _scale(quick: bool) -> list[Row]:
    sizes = {"small namespaces": 25_000, "large namespaces": 100, "one namespace": 10_000}
    rows = []
    for shape, full in sizes.items():
        for what in ("selected", "flows"):
            if (shape, what) == ("one namespace", "flows"):
                continue  # a hundred million pairs of rule and pod: no switch would have them
            found = policyscale.measure(shape, full // 10 if quick else full, what)
            said = f"{found.pods:,} pods, {found.policies:,} policies, {shape}: "
            against, wanted = ("", "") if quick or what == "flows" else (_ANTREA.get(shape, ""), "≤ 10")
            said += "who is selected, where" if what == "selected" else f"all {found.results:,} flows"
            rows.append(Row(said, found.seconds, "s", against, None, wanted))
            rows.append(Row(f"the same: memory, of which {found.objects:,.0f} MB objects", found.peak, "MB"))
    return rows
