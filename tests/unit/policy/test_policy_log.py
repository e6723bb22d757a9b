"""Lines of the log of verdicts: what a switch tells, named and explained."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from os_ken.lib.packet import ethernet, icmp, ipv4, ipv6, packet, sctp, tcp, udp
from test_policy_flows import CLIENTS, SERVER, pod, policy

from kmn.k8s.objects import Object, key_of, resource_of
from kmn.openflow.cookie import base_of
from kmn.openflow.messages import PacketIn
from kmn.policy.flows import POLICY_FEATURE, PolicyTable
from kmn.policy.log import Differences, Entry, entry_of
from kmn.policy.model import STAGED
from kmn.policy.packets import Packet, read_packet
from kmn.policy.selection import Address
from kmn.policy.world import World

NOON = dt.datetime(2030, 1, 2, 12, 0, 0, 34567, tzinfo=dt.UTC)
CLIENT, WEB, NODE, HOST = "10.244.2.2", "10.244.1.2", "172.18.0.2", "203.0.113.10"
HOST6 = "2001:db8:203::a"

ALLOW_CLIENTS = policy("web", **SERVER, ingress=[{"from": [CLIENTS], "ports": [{"port": 80}]}])
DENY_ALL = policy("deny", podSelector={}, policyTypes=["Ingress", "Egress"])
ADMIN: Object = {
    "apiVersion": "policy.networking.k8s.io/v1alpha1",
    "kind": "AdminNetworkPolicy",
    "metadata": {"name": "first"},
    "spec": {
        "priority": 1,
        "subject": {"namespaces": {}},
        "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}],
    },
}
SURROUNDINGS: list[Object] = [
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}},
    {
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "spec": {"podCIDRs": ["10.244.1.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": NODE}, {"type": "Hostname", "address": "n1"}]},
    },
    {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "x"},
        "spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "externalIPs": ["192.0.2.1"]},
    },
    {
        "apiVersion": "kmn.io/v1", "kind": "Edge", "metadata": {"name": "default"},
        "spec": {"hosts": [{"name": "e1", "ip": HOST, "ips": [HOST, HOST6]}]},
    },
    pod("s", 1, 2, app="web"),
    pod("c", 2, 2, app="client"),
]  # fmt: skip


def staged(obj: Object) -> Object:
    return {**obj, "metadata": {**obj["metadata"], "annotations": {STAGED: "true"}}}


def world(*objects: Object) -> World:
    made = World()
    for obj in (*SURROUNDINGS, *objects):
        made.put(resource_of(obj), key_of(obj), obj)
    return made


def frame(source: str, destination: str, *upper: Any) -> bytes:
    made = packet.Packet()
    version6 = ":" in source
    made.add_protocol(ethernet.ethernet(ethertype=0x86DD if version6 else 0x0800))
    numbers = {tcp.tcp: 6, udp.udp: 17, sctp.sctp: 132, icmp.icmp: 1}
    number = numbers.get(type(upper[0]), 47) if upper else 47
    made.add_protocol(
        ipv6.ipv6(src=source, dst=destination, nxt=number) if version6 else ipv4.ipv4(
            src=source, dst=destination, proto=number
        )
    )  # fmt: skip
    for each in upper:
        made.add_protocol(each)
    made.serialize()
    return bytes(made.data)


def told(
    owner: str,
    table: PolicyTable = PolicyTable.INGRESS_POLICY,
    source: str = CLIENT,
    destination: str = WEB,
    asked: tuple[Address, int] | None = None,
    port: int = 80,
) -> PacketIn:
    """What a switch tells of a flow that is ``owner``'s."""
    packed = frame(source, destination, tcp.tcp(src_port=40000, dst_port=port))
    return PacketIn(table, base_of(POLICY_FEATURE, owner) | 0x1234567, packed, asked)


def entry(objects: World, what: PacketIn) -> Entry:
    found = entry_of(objects, NOON, "n1", what)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("objects", "what", "line"),
    [
        pytest.param(
            [ALLOW_CLIENTS], told("NetworkPolicy/x/web ingress[0]"),
            "pod x/c -> pod x/s, 80/TCP: ingress allowed: NetworkPolicy x/web ingress[0]", id="a rule",
        ),
        pytest.param(
            [ALLOW_CLIENTS, DENY_ALL], told("Pod/x/s Ingress", source=HOST),
            "host e1 -> pod x/s, 80/TCP: ingress denied: default deny of policies x/deny, x/web", id="default deny",
        ),
        pytest.param(
            [ALLOW_CLIENTS, DENY_ALL], told("Pod/x/s Ingress", source=HOST6, destination="fd00::9"),
            "host e1 -> fd00::9, 80/TCP: ingress denied: default deny of policies x/deny, x/web", id="by IPv6",
        ),
        pytest.param(
            [ALLOW_CLIENTS, DENY_ALL], told("Pod/x/c Egress", PolicyTable.EGRESS_POLICY),
            "pod x/c -> pod x/s, 80/TCP: egress denied: default deny of policy x/deny", id="only of that direction",
        ),
        pytest.param(
            [ADMIN], told("AdminNetworkPolicy/first ingress[0]", PolicyTable.INGRESS_ADMIN, source=NODE),
            "node n1 -> pod x/s, 80/TCP: ingress denied: AdminNetworkPolicy first ingress[0]", id="an administrator's",
        ),
        pytest.param(
            [ALLOW_CLIENTS, staged(DENY_ALL)], told("Pod/x/s Ingress", source="10.244.1.1"),
            "node n1 -> pod x/s, 80/TCP: ingress denied: default deny of policy x/web", id="staged ones deny nothing",
        ),
        pytest.param(
            [staged(DENY_ALL)], told("Pod/x/s Ingress", PolicyTable.STAGED_INGRESS_POLICY, source="192.0.2.77"),
            "staged: 192.0.2.77 -> pod x/s, 80/TCP: ingress would be denied: default deny of policy x/deny",
            id="as if",
        ),
        pytest.param(
            [ALLOW_CLIENTS], told("NetworkPolicy/x/web ingress[0]", asked=(ip_address("10.96.0.7"), 8080)),
            "pod x/c -> pod x/s, 80/TCP (through service x/web, port 8080): "
            "ingress allowed: NetworkPolicy x/web ingress[0]", id="through a Service",
        ),
        pytest.param(
            [ALLOW_CLIENTS], told("NetworkPolicy/x/web ingress[0]", asked=(ip_address(WEB), 80)),
            "pod x/c -> pod x/s, 80/TCP: ingress allowed: NetworkPolicy x/web ingress[0]", id="nothing translated",
        ),
        pytest.param(
            [], told("Pod/x/s Ingress"),
            "pod x/c -> pod x/s, 80/TCP: ingress denied: default deny of a policy that is gone", id="policy is gone",
        ),
    ],
)  # fmt: skip
def test_lines(objects: list[Object], what: PacketIn, line: str) -> None:
    assert str(entry(world(*objects), what)) == f"12:00:00.034 n1: {line}"


def test_a_name_that_is_not_known_yet_is_not_explained() -> None:
    found = world()
    what = told("NetworkPolicy/x/web ingress[0]")
    assert not entry(found, what).explained
    assert "a flow of a rule that is not known (cookie 0x8" in str(entry(found, what))
    found.put(resource_of(ALLOW_CLIENTS), key_of(ALLOW_CLIENTS), ALLOW_CLIENTS)
    assert entry(found, what).explained


def test_a_rule_that_is_gone_is_still_named() -> None:
    found = world(ALLOW_CLIENTS)
    found.put(resource_of(ALLOW_CLIENTS), key_of(ALLOW_CLIENTS), None)
    assert entry(found, told("NetworkPolicy/x/web ingress[0]")).reason == "NetworkPolicy x/web ingress[0]"


def test_addresses_follow_their_pods() -> None:
    found = world(ALLOW_CLIENTS)
    gone = pod("c", 2, 2, app="client")
    found.put(resource_of(gone), key_of(gone), {**gone, "status": {**gone["status"], "phase": "Succeeded"}})
    assert str(found.places.at(ip_address(CLIENT))) == CLIENT
    new = pod("d", 2, 2)
    found.put(resource_of(new), key_of(new), new)
    assert str(found.places.at(ip_address(CLIENT))) == "pod x/d"
    found.put(resource_of(new), key_of(new), None)
    found.put(resource_of(gone), key_of(gone), gone)
    assert str(found.places.at(ip_address(CLIENT))) == "pod x/c"


def test_an_object_that_makes_no_sense_is_as_good_as_gone() -> None:
    found = world(ALLOW_CLIENTS)
    node = {**SURROUNDINGS[1], "status": {"addresses": [{"type": "InternalIP", "address": "n1"}]}}
    found.put(resource_of(node), key_of(node), node)
    assert str(found.places.at(ip_address(NODE))) == NODE
    broken = policy("web", **SERVER, ingress=[{"from": [{"ipBlock": {"cidr": "everything"}}]}])
    found.put(resource_of(broken), key_of(broken), broken)
    assert not list(found.judge.policies)


def test_what_is_no_verdict_is_no_line() -> None:
    found = world()
    assert entry_of(found, NOON, "n1", replace_frame(told("Pod/x/s Ingress"), b"\0" * 60)) is None
    assert entry_of(found, NOON, "n1", told("Pod/x/s Ingress")._replace(table=52)) is None


def replace_frame(what: PacketIn, packed: bytes) -> PacketIn:
    return what._replace(packet=packed)


def test_json() -> None:
    what = told("Pod/x/s Ingress", source=HOST, asked=(ip_address("192.0.2.1"), 8080))
    shown = entry(world(ALLOW_CLIENTS, DENY_ALL), what).as_json()
    assert json.loads(json.dumps(shown)) == {
        "time": "2030-01-02T12:00:00.034Z",
        "node": "n1",
        "verdict": "denied",
        "staged": False,
        "direction": "ingress",
        "source": {"kind": "host", "name": "e1", "address": HOST, "port": 40000},
        "destination": {"kind": "pod", "name": "x/s", "address": WEB, "port": 80},
        "protocol": "TCP",
        "through": {"kind": "service", "name": "x/web", "address": "192.0.2.1", "port": 8080},
        "policies": ["NetworkPolicy x/deny", "NetworkPolicy x/web"],
        "reason": "default deny of policies x/deny, x/web",
    }


def test_json_names_the_rule() -> None:
    shown = entry(world(ALLOW_CLIENTS), told("NetworkPolicy/x/web ingress[0]")).as_json()
    assert (shown["policies"], shown["rule"], shown["verdict"]) == (["NetworkPolicy x/web"], "ingress[0]", "allowed")


# What packets say.


def test_packets() -> None:
    for upper, protocol in (
        (tcp.tcp(src_port=1, dst_port=2), "TCP"),
        (udp.udp(src_port=1, dst_port=2), "UDP"),
        (sctp.sctp(src_port=1, dst_port=2), "SCTP"),
    ):
        for source, destination in (("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")):
            assert read_packet(frame(source, destination, upper)) == Packet(
                ip_address(source), ip_address(destination), protocol, 1, 2
            )
    ping = read_packet(frame("10.0.0.1", "10.0.0.2", icmp.icmp()))
    assert ping is not None
    assert (ping.service, ping.port) == ("ICMP type 8", None)
    other = read_packet(frame("10.0.0.1", "10.0.0.2"))
    assert other is not None
    assert other.service == "protocol 47"


def test_later_fragments_show_no_ports() -> None:
    packed = bytearray(frame("10.0.0.1", "10.0.0.2", udp.udp(src_port=1, dst_port=2)))
    packed[20:22] = b"\x00\xb9"  # the fragment's place
    fragment = read_packet(bytes(packed))
    assert fragment is not None
    assert (fragment.protocol, fragment.port, fragment.service) == ("UDP", None, "UDP fragment")


def test_extension_headers_are_passed_over() -> None:
    packed = frame("fd00::1", "fd00::2", udp.udp(src_port=1, dst_port=2))
    first = packed[:20] + b"\x2c" + packed[21:54] + b"\x11\0\0\x01\0\0\0\x09" + packed[54:]
    later = packed[:20] + b"\x2c" + packed[21:54] + b"\x11\0\0\x09\0\0\0\x09" + packed[54:]
    found = [read_packet(first), read_packet(later)]
    assert [each.service if each is not None else None for each in found] == ["2/UDP", "UDP fragment"]


@given(st.sampled_from((b"\x08\x00\x45", b"\x08\x00\x4f", b"\x86\xdd\x60")), st.binary(max_size=150))
def test_whatever_a_pod_sends_is_no_error(kind: bytes, rest: bytes) -> None:
    found = read_packet(bytes(12) + kind + rest)
    assert found is None or found.service


# What would be, and what is.


def verdicts(*entries: Entry) -> list[tuple[bool, str]]:
    differences = Differences()
    shown = [each for one in entries for each in differences.put(one)]
    due = differences.due
    if due is not None:
        assert not differences.rest(due - dt.timedelta(microseconds=1))
        shown += differences.rest(due)
    assert differences.due is None
    return [(each.staged, each.verdict) for each in shown]


def test_what_would_be_is_shown_where_it_is_different() -> None:
    everything = world(ALLOW_CLIENTS, staged(DENY_ALL))
    is_denied = entry(everything, told("Pod/x/s Ingress"))
    is_allowed = entry(everything, told("NetworkPolicy/x/web ingress[0]"))
    would_deny, would_allow = replace(is_denied, staged=True), replace(is_allowed, staged=True)
    assert verdicts(would_deny, is_denied) == [(False, "denied")]
    assert verdicts(would_allow, is_allowed) == [(False, "allowed")]
    assert verdicts(would_deny, is_allowed) == [(True, "denied"), (False, "allowed")]
    assert verdicts(would_allow, is_denied) == [(True, "allowed"), (False, "denied")]
    # Nothing is told of what is: it is allowed.
    assert verdicts(would_deny, would_deny) == [(True, "denied"), (True, "denied")]
    assert verdicts(would_allow) == []


def test_what_is_of_another_packet_or_node_does_not_count() -> None:
    everything = world(ALLOW_CLIENTS, staged(DENY_ALL))
    is_denied = entry(everything, told("Pod/x/s Ingress"))
    would_deny = replace(is_denied, staged=True)
    other = entry(everything, told("Pod/x/s Ingress", port=81))
    assert verdicts(would_deny, other) == [(True, "denied"), (False, "denied")]
    assert verdicts(would_deny, replace(is_denied, node="n2")) == [(False, "denied"), (True, "denied")]
