"""Least connections: the order in which endpoints become level, and the turns that nodes get."""

from __future__ import annotations

import random
from collections.abc import Sequence
from ipaddress import ip_address

import controller_objects as make
import pytest
from test_balancing_flows import cluster_object
from test_service_flows import VIP

from controller.census import CONNECTION, Entry, Tally
from controller.cluster import Cluster
from controller.leveling import level
from controller.openflow import wire
from controller.openflow.match import IP, match, reg
from controller.pipeline import GROUP, Table
from controller.service_views import Endpoint

A, B, C = "10.244.1.2", "10.244.1.3", "10.244.1.4"
BEGIN = "table=33, priority=110,tcp,reg8=0x23e42046 "
# What a switch learned of whose turn it is goes.
BEGIN_ANEW = wire.flow_delete(Table.ROTATION, 100, match(IP, reg(GROUP, 0x23E42046)).packed)


@pytest.mark.parametrize(
    ("counts", "weights", "turns"),
    [
        ([0], [1], ""),
        ([9], [1], ""),
        ([0, 0, 0], [1, 1, 1], ""),
        ([5, 5, 5], [1, 1, 1], ""),
        ([3, 2, 3], [1, 1, 1], "B"),
        ([0, 3, 1], [1, 1, 1], "AACAC"),
        ([3, 0, 0], [1, 1, 1], "BCBCBC"),
        # By weight: what a connection adds counts for less where there is more.
        ([6, 2, 4], [3, 1, 2], ""),
        ([0, 2, 0], [3, 1, 2], "ACACAACACA"),
        ([0, 0, 4], [3, 1, 2], "ABAAABAA"),
    ],
)
def test_the_emptiest_is_filled_up_first(counts: list[int], weights: list[int], turns: str) -> None:
    order = level([count * CONNECTION for count in counts], weights, 1000)
    assert "".join("ABC"[index] for index in order) == turns


def test_closed_connections_count_little() -> None:
    """As IPVS reckons: 256 of them are one that is open."""
    assert level([CONNECTION + 20, CONNECTION, CONNECTION + 100], [1, 1, 1], 10) == []
    assert level([CONNECTION + 256, CONNECTION, CONNECTION], [1, 1, 1], 10) == [1, 2]


def test_there_are_no_more_turns_than_are_asked_for() -> None:
    loads = [0, 10 * CONNECTION, 1000 * CONNECTION]
    assert level(loads, [1, 1, 1], 16) == [*[0] * 10, 0, 1, 0, 1, 0, 1]
    assert level(loads, [1, 1, 1], 4) == [0] * 4


def ipvs(counts: list[int], weights: Sequence[int], connections: int) -> list[int]:
    """IPVS' rule for each connection, the kernel's way: without fractions."""
    for _ in range(connections):
        least = 0
        for index in range(1, len(counts)):
            if counts[least] * weights[index] > counts[index] * weights[least]:
                least = index
        counts[least] += 1
    return counts


@pytest.mark.parametrize("seed", range(20))
def test_whoever_is_filled_up_ends_where_ipvs_would(seed: int) -> None:
    chance = random.Random(seed)
    size = chance.randint(2, 8)
    counts = [chance.randint(0, 30) for _ in range(size)]
    weights = [1] * size
    order = level([count * CONNECTION for count in counts], weights, 1000)
    then = list(counts)
    for index in order:
        then[index] += 1
    assert then == ipvs(counts, weights, len(order)) == [max(then)] * size


def given(scheduler: str = "lc", addresses: Sequence[str] = (A, B, C), **spec: object) -> Cluster:
    made = Cluster()
    made.apply("clusters", "ADDED", cluster_object(mode="ipvs", ipvs={"scheduler": scheduler}))
    made.apply("nodes", "ADDED", make.node())
    service = make.service("web", VIP, ("", "TCP", 80))
    service["spec"].update(spec)
    made.apply("services", "ADDED", service)
    made.apply("endpointslices", "ADDED", make.endpoints("web", list(addresses), ("", "TCP", 8080)))
    taken(made)
    return made


def taken(cluster: Cluster) -> None:
    cluster.compute()
    for scope in cluster.scopes("n1"):
        scope.take()


def tally(counts: dict[str, int], address: str = VIP, port: int = 80, protocol: str = "TCP") -> Tally:
    return {
        Entry(protocol, ip_address(address), port, Endpoint(ip_address(endpoint), 8080)): count * CONNECTION
        for endpoint, count in counts.items()
    }


def ahead(cluster: Cluster) -> list[str]:
    """Turns of the node before the cycle's: number, next number, last byte of the endpoint."""
    made = []
    for flow in cluster.scopes("n1")[-1].flows.values():
        text = str(flow)
        if "table=33, priority=200" in text and "reg10=0x1000" in text:
            number = text.split("reg10=")[1].split()[0]
            following = text.split("load:")[1].split("->")[0]
            endpoint = text.split("nat(dst=10.244.1.")[1].split(":")[0]
            made.append(f"{number} {following} {endpoint}")
    return sorted(made)


def test_turns_of_a_node() -> None:
    cluster = given()
    common, size = dict(cluster.common.flows), cluster.size("n1")
    assert cluster.leveler.counted("n1", tally({A: 2, B: 1}), 1.0) == [BEGIN_ANEW]
    assert ahead(cluster) == ["0x1000000 0x1000001 4", "0x1000001 0x1000002 3", "0x1000002 0x1 4"]
    [begin] = [text for flow in cluster.scopes("n1")[-1].flows.values() if BEGIN in (text := str(flow))]
    assert "load:0x1000001" in begin
    assert "nat(dst=10.244.1.4:8080)" in begin
    assert cluster.common.flows == common, "other nodes count for themselves"
    assert cluster.size("n1") == size, "how many turns there are at the moment is no news"
    assert cluster.leveler.counted("n1", tally({A: 2, B: 1}), 1.0) == [], "nothing came, nothing went"
    cluster.leveler.counted("n1", tally({A: 9000}), 0.1)
    assert len(ahead(cluster)) == 200, "as many as may come until the next count"
    cluster.leveler.counted("n1", tally({A: 9001}), 10.0)
    assert len(ahead(cluster)) == 1024
    assert cluster.leveler.counted("n1", tally({A: 2, B: 2, C: 2}), 1.0) == []
    assert ahead(cluster) == []


def test_all_ways_to_a_port_count_and_nothing_else() -> None:
    cluster = given(type="NodePort", externalIPs=["192.0.2.7"])
    service = make.service("web", VIP, ("", "TCP", 80))
    service["spec"] |= {"type": "NodePort", "externalIPs": ["192.0.2.7"]}
    service["spec"]["ports"][0]["nodePort"] = 30080
    cluster.apply("services", "MODIFIED", service)
    taken(cluster)
    everything = (
        tally({A: 1}) | tally({B: 1}, "192.0.2.7") | tally({C: 2}, "172.18.0.2", 30080)
        | tally({A: 5}, protocol="UDP") | tally({A: 5}, port=81) | tally({A: 5}, "192.0.2.8")
    )  # fmt: skip
    cluster.leveler.counted("n1", everything, 1.0)
    assert [turn.split()[-1] for turn in ahead(cluster)] == ["2", "3"]


def test_weights_are_of_wlc() -> None:
    for scheduler, turns in (("lc", ["3", "3", "3"]), ("wlc", ["3"])):
        cluster = given(scheduler, [A, B])
        for piece in (make.endpoints("web", [A, B], ("", "TCP", 8080)),):
            for endpoint, name in zip(piece["endpoints"], "ab", strict=True):
                endpoint["targetRef"] = {"kind": "Pod", "name": name}
            cluster.apply("endpointslices", "MODIFIED", piece)
        pod = make.pod("a", A, 10)
        pod["metadata"]["annotations"]["kmn.io/weight"] = "3"
        cluster.apply("pods", "MODIFIED", pod)
        taken(cluster)
        cluster.leveler.counted("n1", tally({A: 3}), 1.0)
        assert [turn.split()[-1] for turn in ahead(cluster)] == turns


def test_endpoints_that_change_are_counted_anew() -> None:
    cluster = given(addresses=[A, B])
    cluster.leveler.counted("n1", tally({A: 2}), 1.0)
    assert len(ahead(cluster)) == 2
    cluster.apply("endpointslices", "MODIFIED", make.endpoints("web", [A, C], ("", "TCP", 8080)))
    taken(cluster)
    assert ahead(cluster) == [], "no turn leads to an endpoint that is gone"
    assert cluster.leveler.counted("n1", tally({A: 2, B: 1}), 1.0) == [BEGIN_ANEW]
    assert [turn.split()[-1] for turn in ahead(cluster)] == ["4", "4"]


def test_other_schedulers_count_nothing() -> None:
    cluster = given()
    cluster.leveler.counted("n1", tally({A: 2}), 1.0)
    assert cluster.leveler
    cluster.apply("clusters", "MODIFIED", cluster_object(mode="ipvs", ipvs={"scheduler": "rr"}))
    taken(cluster)
    assert ahead(cluster) == []
    assert not cluster.leveler
    assert not given("wrr").leveler
    assert not given("sh").leveler
    gone = given()
    gone.replace("services", [])
    taken(gone)
    assert not gone.leveler


def test_endpoints_of_a_node_alone_become_level_among_themselves() -> None:
    cluster = given(internalTrafficPolicy="Local")
    piece = make.endpoints("web", [A, B], ("", "TCP", 8080))
    for endpoint in piece["endpoints"]:
        endpoint["nodeName"] = "n1"
    away = make.endpoints("web", [C], ("", "TCP", 8080), suffix="2")
    away["endpoints"][0]["nodeName"] = "n2"
    cluster.apply("endpointslices", "MODIFIED", piece)
    cluster.apply("endpointslices", "ADDED", away)
    taken(cluster)
    cluster.leveler.counted("n1", tally({A: 2}), 1.0)
    assert [turn.split()[-1] for turn in ahead(cluster)] == ["3", "3"]


def test_ipv6() -> None:
    """Its own endpoints, its own turns."""
    addresses = ["fd00::2", "fd00::3"]
    cluster = given()
    service = make.service("web", VIP, ("", "TCP", 80))
    service["spec"]["clusterIPs"] = [VIP, "fd01::1"]
    piece = make.endpoints("web", addresses, ("", "TCP", 8080), suffix="6") | {"addressType": "IPv6"}
    cluster.apply("services", "MODIFIED", service)
    cluster.apply("endpointslices", "ADDED", piece)
    taken(cluster)
    [anew] = cluster.leveler.counted("n1", tally({"fd00::2": 1}, "fd01::1"), 1.0)
    assert anew != BEGIN_ANEW
    [turn] = [text for flow in cluster.scopes("n1")[-1].flows.values() if "reg10=0x1000" in (text := str(flow))]
    assert "tcp6" in turn
    assert "nat(dst=[fd00::3]:8080)" in turn
