"""Incremental computation: what a change costs, who wins a contested flow, what a restart sends."""

from __future__ import annotations

import logging
from ipaddress import IPv4Address

import controller_objects as make
import pytest

from controller.cluster import Cluster
from controller.desired import Changes
from controller.openflow.readback import Installed
from controller.openflow.wire import CtFlush

UDP = 17
REJECT = (IPv4Address("169.254.169.253"), 1)
VIP = IPv4Address("10.96.0.10")


def changes(cluster: Cluster, bridge: str = "n1") -> tuple[int, int, int, int]:
    """How many groups, flows, removed flows and removed groups the pending events cost a bridge."""
    cluster.compute()
    parts = [scope.take() for scope in cluster.scopes(bridge)]
    return (
        sum(len(part.groups) for part in parts),
        sum(len(part.flows) for part in parts),
        sum(len(part.gone_flows) for part in parts),
        sum(len(part.gone_groups) for part in parts),
    )


@pytest.fixture
def cluster() -> Cluster:
    """A node with a pod and a Service of two endpoints; all taken."""
    made = Cluster()
    made.apply("nodes", "ADDED", make.node())
    made.apply("pods", "ADDED", make.pod("a", "10.244.1.2", 10))
    made.apply("services", "ADDED", make.service("web", "10.96.0.20", ("", "TCP", 80)))
    made.apply("endpointslices", "ADDED", make.endpoints("web", ["10.244.1.2", "10.244.2.2"], ("", "TCP", 8080)))
    changes(made)
    return made


def test_nothing_changes_twice(cluster: Cluster) -> None:
    cluster.apply("pods", "MODIFIED", make.pod("a", "10.244.1.2", 10))
    assert changes(cluster) == (0, 0, 0, 0)


def test_one_endpoint_costs_one_group_modification(cluster: Cluster) -> None:
    cluster.apply("endpointslices", "MODIFIED", make.endpoints("web", ["10.244.1.2", "10.244.2.3"], ("", "TCP", 8080)))
    assert changes(cluster) == (1, 0, 0, 0)


def test_last_endpoint_removes_flow_and_group_and_the_first_brings_them(cluster: Cluster) -> None:
    cluster.apply("endpointslices", "MODIFIED", make.endpoints("web", [], ("", "TCP", 8080)))
    assert changes(cluster) == (0, 0, 1, 1)
    cluster.apply("endpointslices", "MODIFIED", make.endpoints("web", ["10.244.1.2"], ("", "TCP", 8080)))
    assert changes(cluster) == (1, 1, 0, 0)


def test_pod_costs_its_own_flows_on_its_own_bridge(cluster: Cluster) -> None:
    cluster.apply("nodes", "ADDED", make.node("n2", 2))
    changes(cluster), changes(cluster, "n2")
    cluster.apply("pods", "ADDED", make.pod("b", "10.244.1.3", 11))
    assert changes(cluster, "n2") == (0, 0, 0, 0)
    assert changes(cluster) == (0, 5, 0, 0)
    cluster.apply("pods", "DELETED", make.pod("b", "10.244.1.3", 11))
    assert changes(cluster) == (0, 0, 5, 0)


def test_order_in_a_bundle() -> None:
    merged = Changes.merge([Changes((b"g",), (b"f",), (b"-f",), (b"-g",)), Changes((b"G",), (b"F",), (b"-F",), ())])
    assert merged == [b"g", b"G", b"f", b"F", b"-f", b"-F", b"-g"]


def test_a_new_list_forgets_what_is_not_in_it(cluster: Cluster) -> None:
    cluster.replace("pods", [])
    assert changes(cluster) == (0, 0, 5, 0)


def test_same_address_twice_goes_to_the_first_by_name(cluster: Cluster) -> None:
    """The second pod's own port is open, but packets for the address go where they went; then it inherits."""
    cluster.apply("pods", "ADDED", make.pod("b", "10.244.1.2", 11))
    groups, flows, gone, _ = changes(cluster)
    assert (groups, flows, gone) == (0, 4, 0)
    scope = cluster.scopes("n1")[1]
    assert [owners for _, owners in scope.contested] == [[("Pod", "default", "a"), ("Pod", "default", "b")]]
    cluster.apply("pods", "DELETED", make.pod("a", "10.244.1.2", 10))
    _, flows, gone, _ = changes(cluster)
    assert (flows, gone) == (1, 4)
    assert list(scope.contested) == []
    cluster.apply("pods", "DELETED", make.pod("b", "10.244.1.2", 11))
    assert changes(cluster) == (0, 0, 5, 0)


def installed(cluster: Cluster) -> Installed:
    flows = {key: flow.cookie for scope in cluster.scopes("n1") for key, flow in scope.flows.items()}
    return Installed(flows, {n: g.content for s in cluster.scopes("n1") for n, g in s.groups.items()})


def test_restart_sends_nothing_when_nothing_changed(cluster: Cluster) -> None:
    assert len(cluster.difference("n1", installed(cluster))) == 0


def test_restart_sends_the_difference(cluster: Cluster) -> None:
    found = installed(cluster)
    number = next(iter(found.groups))
    found.groups[number] = b"other"
    found.groups[7] = b"unknown"
    changed, missing, *_ = found.flows
    found.flows[changed] ^= 1
    del found.flows[missing]
    found.flows[0, 1, b"unknown"] = 0
    difference = cluster.difference("n1", found)
    counts = (difference.groups, difference.flows, difference.gone_flows, difference.gone_groups)
    assert [len(part) for part in counts] == [1, 2, 1, 1]


def test_empty_switch_gets_everything(cluster: Cluster) -> None:
    everything = cluster.difference("n1", Installed({}, {}))
    assert len(everything) == len(installed(cluster).flows) + len(installed(cluster).groups)


def test_services_whose_groups_want_one_number() -> None:
    """The second has the next; when the first is gone, its number is free for the next comer."""
    cluster = Cluster()
    port = ("", "TCP", 80)
    # The CRC-32 of default/NAME:80/TCP is the same but for the first bit.
    first, second = make.service("uejgtcuo", "10.96.0.20", port), make.service("iiwucoup", "10.96.0.21", port)
    groups = []
    for event, service in (("ADDED", first), ("ADDED", second), ("DELETED", first), ("DELETED", second)):
        name = service["metadata"]["name"]
        cluster.apply("endpointslices", event, make.endpoints(name, ["10.244.1.2"], port))
        cluster.apply("services", event, service)
        cluster.compute()
        groups.append(set(cluster.common.groups))
    (number,) = groups[0]
    assert groups == [{number}, {number, number + 1}, {number + 1}, set()]
    cluster.apply("endpointslices", "ADDED", make.endpoints("iiwucoup", ["10.244.1.2"], port))
    cluster.apply("services", "ADDED", second)
    cluster.compute()
    assert set(cluster.common.groups) == {number}


def test_many_endpoints_are_divided_among_groups_evenly() -> None:
    cluster = Cluster()
    cluster.apply("nodes", "ADDED", make.node())
    changes(cluster)
    port = ("http", "TCP", 80)
    cluster.apply("services", "ADDED", make.service("web", "10.96.0.20", port))
    addresses = [f"10.244.{n // 200}.{n % 200 + 2}" for n in range(1000)]
    cluster.apply("endpointslices", "ADDED", make.endpoints("web", addresses, port))
    assert changes(cluster)[0] == 16
    sizes = [len(group.buckets) for group in cluster.common.groups.values()]
    assert (sum(sizes), min(sizes), max(sizes)) == (1016, 63, 64)  # one bucket more in each, see even_weights
    rules = [flow.rule for flow in cluster.common.flows.values() if "actions=group" in flow.rule]
    assert sorted(rule.split(" actions")[0] for rule in rules) == sorted(
        f"priority=200,tcp,nw_dst=10.96.0.20,tp_src={part << 1:#x}/0x1e,tp_dst=80" for part in range(16)
    )
    cluster.apply("endpointslices", "MODIFIED", make.endpoints("web", addresses[:64], port))
    groups, flows, gone_flows, gone_groups = changes(cluster)
    assert (groups, flows, gone_flows, gone_groups) == (1, 1, 16, 15)


def test_cookie_leads_to_its_object(cluster: Cluster) -> None:
    owners = {
        cluster.owner_of(flow.cookie)[0]: cluster.owner_of(flow.cookie)[1]
        for scope in cluster.scopes("n1")
        for flow in scope.flows.values()
    }
    assert owners == {
        "CONNECTIVITY": ["Pipeline"],
        "NODE": ["Node/n1"],
        "POD": ["Pod/default/a"],
        "SERVICE": ["Service/default/web"],
    }


def test_malformed_object_is_reported_and_harms_no_other(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    broken = make.pod("b", "10.244.1.3", 11)
    broken["metadata"]["annotations"]["kmn.io/mac"] = "0a:58"
    with caplog.at_level(logging.ERROR):
        cluster.apply("pods", "ADDED", broken)
        cluster.apply("pods", "MODIFIED", broken)
    assert [record.message for record in caplog.records] == [
        (
            "Pod default/b: metadata.annotations[kmn.io/mac]: '0a:58' should be a MAC address; "
            "ignored until it is corrected"
        )
    ]
    assert changes(cluster) == (0, 0, 0, 0)
    cluster.apply("pods", "MODIFIED", make.pod("b", "10.244.1.3", 11))
    assert (changes(cluster), cluster.malformed) == ((0, 5, 0, 0), {})


class TestStaleConnections:
    """UDP connections that must be forgotten, as their clients would never notice."""

    @pytest.fixture
    def cluster(self) -> Cluster:
        made = Cluster()
        made.apply("services", "ADDED", make.service("dns", str(VIP), ("dns", "UDP", 53)))
        assert made.compute() == []
        return made

    def endpoints(self, cluster: Cluster, *addresses: str) -> list[CtFlush]:
        cluster.apply("endpointslices", "MODIFIED", make.endpoints("dns", list(addresses), ("dns", "UDP", 5353)))
        return cluster.compute()

    def test_the_first_endpoint(self, cluster: Cluster) -> None:
        assert self.endpoints(cluster, "10.244.1.2") == [CtFlush(UDP, VIP, 53, *REJECT)]

    def test_one_more_endpoint(self, cluster: Cluster) -> None:
        self.endpoints(cluster, "10.244.1.2")
        assert self.endpoints(cluster, "10.244.1.2", "10.244.1.3") == []

    def test_one_endpoint_less(self, cluster: Cluster) -> None:
        self.endpoints(cluster, "10.244.1.2", "10.244.1.3")
        gone = CtFlush(UDP, VIP, 53, IPv4Address("10.244.1.3"), 5353)
        assert self.endpoints(cluster, "10.244.1.2") == [gone]

    def test_a_new_port(self, cluster: Cluster) -> None:
        self.endpoints(cluster, "10.244.1.2")
        cluster.apply("services", "MODIFIED", make.service("dns", str(VIP), ("dns", "UDP", 53), ("dns", "UDP", 54)))
        assert cluster.compute() == [CtFlush(UDP, VIP, 54, *REJECT)]

    def test_the_service(self, cluster: Cluster) -> None:
        self.endpoints(cluster, "10.244.1.2")
        cluster.apply("services", "DELETED", make.service("dns", str(VIP), ("dns", "UDP", 53)))
        assert cluster.compute() == [CtFlush(UDP, VIP, 53, IPv4Address("10.244.1.2"), 5353)]
