"""Schedulers: the order of turns, the flows of each, and weights from annotations."""

from __future__ import annotations

from typing import Any

import controller_objects as make
import pytest
from test_controller_flows import dnat
from test_service_flows import REFUSE, VIP, flows

from controller.balancing import Balancing, cycle, scheduler_of
from controller.cluster import Cluster
from controller.features.service import parts
from controller.parsing import Malformed
from kmn.k8s.objects import Object


@pytest.mark.parametrize(
    ("weights", "order"),
    [
        ([], ""),
        ([1], "A"),
        ([256], "A"),
        ([1, 1, 1], "ABC"),
        ([5, 5], "AB"),
        ([3, 1, 2], "AACABC"),
        ([4, 3, 2], "AABABCABC"),  # the example of the kernel's own documentation
        ([2, 4], "BAB"),
    ],
)
def test_weighted_round_robin(weights: list[int], order: str) -> None:
    assert "".join("ABC"[index] for index in cycle(weights)) == order


def cluster_object(**proxy: Any) -> Object:
    return {
        "apiVersion": "kmn.io/v1",
        "kind": "Cluster",
        "metadata": {"name": "t"},
        "spec": {"serviceCIDR": "10.96.0.0/12", **({"kubeProxy": proxy} if proxy else {})},
    }


def test_what_the_cluster_object_says() -> None:
    assert scheduler_of(cluster_object()) == "random"
    assert scheduler_of(cluster_object(mode="nftables", ipvs={"scheduler": "rr"})) == "random"
    assert scheduler_of(cluster_object(mode="ipvs")) == "rr"
    assert scheduler_of(cluster_object(mode="ipvs", ipvs={"scheduler": "sh"})) == "sh"
    with pytest.raises(Malformed, match=r"spec.kubeProxy.ipvs.scheduler: 'sed' should be one of rr, wrr, lc, wlc, sh"):
        scheduler_of(cluster_object(mode="ipvs", ipvs={"scheduler": "sed"}))


def test_groups_are_divided_by_what_may_tell_clients_apart() -> None:
    assert [parts(1000, Balancing(how)) for how in ("random", "sh", "rr", "wrr")] == [16, 4, 1, 1]
    assert parts(1000, Balancing("random", sticky=True)) == 4
    assert parts(1000, Balancing("rr", sticky=True)) == 1


def given(scheduler: str, **spec: Any) -> Cluster:
    """Pods ``a`` and ``b`` behind a Service ``web``; ``a`` has weight 2."""
    made = Cluster()
    made.apply("clusters", "ADDED", cluster_object(mode="ipvs", ipvs={"scheduler": scheduler}))
    made.apply("nodes", "ADDED", make.node())
    service = make.service("web", VIP, ("", "TCP", 80))
    service["spec"].update(spec)
    made.apply("services", "ADDED", service)
    piece = make.endpoints("web", ["10.244.1.2", "10.244.1.3"], ("", "TCP", 8080))
    for endpoint, name in zip(piece["endpoints"], "ab", strict=True):
        endpoint["targetRef"] = {"kind": "Pod", "name": name}
    made.apply("endpointslices", "ADDED", piece)
    made.apply("pods", "ADDED", weighted("a", "2"))
    made.apply("pods", "ADDED", make.pod("b", "10.244.1.3", 11))
    made.compute()
    return made


def weighted(name: str, weight: str) -> Object:
    pod = make.pod(name, "10.244.1.2", 10)
    pod["metadata"]["annotations"]["kmn.io/weight"] = weight
    return pod


def test_round_robin() -> None:
    cluster = given("rr")
    [cookie] = next(iter(cluster._learned.values()))
    client = "move:NXM_OF_IP_SRC[]->NXM_NX_REG15[],move:NXM_OF_TCP_SRC[]->NXM_NX_REG15[0..15],set_field:0->reg15"

    def turn(following: str, endpoint: str) -> str:
        return (
            f"actions={client},learn(table=26,priority=100,cookie={cookie:#x},eth_type=0x800,reg8=0x23e42046,"
            f"load:{following}->NXM_NX_REG10[]),{dnat(endpoint)}"
        )

    assert flows(cluster) == {
        REFUSE,
        "table=28, priority=100,ip,nw_dst=10.96.0.0/12 actions=drop",
        (
            f"table=28, priority=200,tcp,nw_dst={VIP},tp_dst=80 "
            "actions=set_field:0x23e42046->reg8,resubmit(,26),goto_table:33"
        ),
        f"table=33, priority=100,tcp,reg8=0x23e42046 {turn('0x2', '10.244.1.2:8080')}",
        f"table=33, priority=200,tcp,reg8=0x23e42046,reg10=0x1 {turn('0x2', '10.244.1.2:8080')}",
        f"table=33, priority=200,tcp,reg8=0x23e42046,reg10=0x2 {turn('0x1', '10.244.1.3:8080')}",
    }
    assert not cluster.common.groups


def order(cluster: Cluster) -> list[str]:
    """Last bytes of the endpoints' addresses, by turn."""
    turns = sorted(line for line in flows(cluster) if line.startswith("table=33, priority=200"))
    return [line.split("nat(dst=")[1].split(":")[0].rpartition(".")[2] for line in turns]


def test_weights_are_of_pods() -> None:
    cluster = given("wrr")
    assert order(cluster) == ["2", "2", "3"]
    cluster.apply("pods", "MODIFIED", weighted("a", "1"))
    assert order(cluster) == ["2", "3"]
    cluster.apply("pods", "MODIFIED", weighted("a", "0"))
    assert order(cluster) == ["2", "3"]
    wrong = "Pod default/a: metadata.annotations[kmn.io/weight]: '0' should be a whole number from 1 to 256"
    assert list(cluster.malformed.values()) == [wrong]
    cluster.replace("pods", [weighted("b", "3")])
    assert (order(cluster), cluster.malformed) == (["3", "3", "2", "3"], {})
    assert order(given("rr")) == ["2", "3"], "round robin knows no weights"


def test_another_scheduler_is_another_data_plane() -> None:
    cluster = given("rr", sessionAffinity="ClientIP")
    cookies = next(iter(cluster._learned.values()))
    assert len(cookies) == 3
    cluster.apply("clusters", "MODIFIED", cluster_object(mode="ipvs", ipvs={"scheduler": "sh"}))
    assert {what.cookie for what in cluster.compute()} < cookies  # type: ignore[union-attr]
    [group] = cluster.common.groups.values()
    assert "selection_method=hash,fields=ip_src" in str(group)
    assert order(cluster) == []
    cluster.apply("clusters", "MODIFIED", cluster_object())
    cluster.compute()
    [group] = cluster.common.groups.values()
    assert "fields(ip_src,tcp_src,udp_src,sctp_src)" in str(group)
