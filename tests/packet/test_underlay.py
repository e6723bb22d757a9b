"""The kernel side of a cluster with real switches, without control plane and controller."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from underlay_lab import Lab, eventually, plans_of, pod_of, root_state, run, spec_of, traces

from kmn.cluster_spec import ClusterSpec, FabricLink, Link, NodeSpec, OutsideHost
from kmn.emulator import features, netns
from kmn.emulator.edge import edge_object
from kmn.emulator.purge import clusters, purge
from kmn.emulator.underlay import UnderlayError
from kmn.k8s.dataplane import HAIRPIN_IP, HOST_OFPORT, REJECT_IP, UPLINK_OFPORT
from kmn.naming import Paths
from kmn.naming import netns as netns_name

pytestmark = [pytest.mark.packet, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three nodes with two pods each, and routing flows."""
    purge("hda")
    lab = Lab(spec_of("hda"))
    try:
        lab.up()
        lab.attach(*(pod_of(lab.spec, node.name, number) for node in lab.spec.nodes for number in (0, 1)))
        lab.route()
        yield lab
    finally:
        lab.down()


def test_ports_have_the_numbers_that_they_were_given(lab: Lab) -> None:
    for node in ("n1", "n2", "n3"):
        ports = lab.ports(node)
        assert ports.pop("uplink") == UPLINK_OFPORT
        assert ports.pop("host") == HOST_OFPORT
        assert sorted(ports.values()) == [10, 11]


def test_packets_pass_between_pods_and_nodes(lab: Lab) -> None:
    first = lab.pods["default/n1-0"]
    for target in ("default/n1-1", "default/n2-0", "default/n3-1"):
        assert lab.ping(first.netns, str(lab.pods[target].address.ip)), target
    assert lab.ping(lab.underlay.node_netns("n2"), str(first.address.ip)), "node to pod on another node"
    assert lab.ping(first.netns, "172.18.0.4"), "pod to another node"


def test_the_way_between_nodes_is_node_fabric_node(lab: Lab) -> None:
    """Three routers, each of which takes one from the time to live."""
    pod = lab.pods["default/n1-0"].netns
    target = str(lab.pods["default/n2-0"].address.ip)
    answer = run("ip", "netns", "exec", pod, "ping", "-n", "-c1", "-W5", target)
    assert "ttl=61" in answer


def test_a_pod_has_its_own_resolv_conf_and_hosts(lab: Lab) -> None:
    pod = lab.pods["default/n1-0"]
    assert run("ip", "netns", "exec", pod.netns, "cat", "/etc/resolv.conf") == pod.resolv_conf
    assert run("ip", "netns", "exec", pod.netns, "cat", "/etc/hosts") == pod.hosts


def test_a_pod_speaks_ipv4_only(lab: Lab) -> None:
    for name in (lab.pods["default/n1-0"].netns, lab.underlay.node_netns("n1")):
        assert run("ip", "-n", name, "-6", "addr") == ""


def test_the_node_refuses_at_the_reject_address_and_answers_the_hairpin_address(lab: Lab) -> None:
    node = lab.underlay.node_netns("n1")
    assert f"local {REJECT_IP}" in run("ip", "-n", node, "route", "get", REJECT_IP)
    assert "dev eth0" in run("ip", "-n", node, "route", "get", HAIRPIN_IP)
    with netns.entered(node):
        client = socket.socket()
    with client, pytest.raises(ConnectionRefusedError):
        client.connect((REJECT_IP, 1))


def test_pods_reach_the_api_socket(lab: Lab) -> None:
    with lab.underlay.api_socket() as listener:
        with netns.entered(lab.pods["default/n3-0"].netns):
            client = socket.socket()
        with client:
            client.settimeout(5)
            client.connect((str(lab.spec.fabric_address), 6443))
            accepted, peer = listener.accept()
            accepted.close()
            assert peer[0] == str(lab.pods["default/n3-0"].address.ip)


def test_tcp_passes_with_segmentation_offload(lab: Lab) -> None:
    """A megabyte between nodes: fails when checksums or offloads are wrong, though ping works."""
    server, client = lab.pods["default/n2-1"], lab.pods["default/n1-1"]
    with netns.entered(server.netns):
        listener = socket.create_server((str(server.address.ip), 5001))
    with netns.entered(client.netns):
        sender = socket.socket()
    with listener, sender:
        sender.settimeout(10)
        sender.connect((str(server.address.ip), 5001))
        receiver, _ = listener.accept()
        with receiver:
            receiver.settimeout(10)
            got = 0
            for _ in range(16):
                sender.sendall(bytes(65536))
                while got < (_ + 1) * 65536:
                    got += len(receiver.recv(1 << 20))
            assert got == 1 << 20


def test_attach_is_idempotent_and_tells_errors_by_pod(lab: Lab) -> None:
    again = lab.pods["default/n1-0"]
    lost = replace(pod_of(lab.spec, "n1", 5), node="nowhere", uid="lost")
    taken = replace(pod_of(lab.spec, "n1", 6), ofport=again.ofport, uid="taken")
    errors = lab.underlay.attach_pods([again, lost, taken])
    assert set(errors) == {"lost", "taken"}
    assert "Pod default/n1-5" in errors["lost"]
    assert "nowhere" in errors["lost"]
    assert "Pod default/n1-6" in errors["taken"]
    assert taken.netns not in os.listdir("/run/netns")
    assert sorted(lab.ports("n1").values()) == [1, 2, 10, 11]
    assert lab.ping(again.netns, str(lab.pods["default/n1-1"].address.ip))


def test_detach_removes_everything_and_tolerates_what_is_gone(lab: Lab) -> None:
    pod = pod_of(lab.spec, "n3", 7)
    lab.underlay.attach_pods([pod])
    assert pod.ofport in lab.ports("n3").values()
    for _ in range(2):
        lab.underlay.detach_pods([pod])
        assert eventually(lambda: pod.ofport not in lab.ports("n3").values())
        assert not Path("/run/netns", pod.netns).exists()
        assert not Path("/etc/netns", pod.netns).is_symlink()
    assert lab.underlay.attach_pods([pod]) == {}, "the same name and number again at once"
    assert pod.ofport in lab.ports("n3").values()
    lab.underlay.detach_pods([pod])


@pytest.mark.parametrize("program", ["ovs-vswitchd", "ovsdb-server"])
def test_a_killed_switch_comes_back_with_its_ports(lab: Lab, program: str) -> None:
    before = lab.ports("n2")
    switch = lab.underlay.switches()["n2"]
    os.kill(switch.processes()[program], signal.SIGKILL)
    assert eventually(lambda: switch.dead() == [program])
    assert lab.underlay.revive("n2") == [program]
    assert lab.ports("n2") == before
    extra = pod_of(lab.spec, "n2", 8)
    assert lab.underlay.attach_pods([extra]) == {}
    lab.underlay.detach_pods([extra])
    lab.route()
    assert lab.ping(lab.pods["default/n2-0"].netns, str(lab.pods["default/n1-0"].address.ip))


@pytest.mark.parametrize("program", ["ovs-vswitchd", "ovsdb-server"])
def test_pods_that_meet_a_dead_switch_are_told_and_can_be_tried_again(lab: Lab, program: str) -> None:
    """Neither an error of one node's nor a lost answer may keep a pod out for good, or touch other nodes' pods."""
    switch = lab.underlay.switches()["n3"]
    os.kill(switch.processes()[program], signal.SIGKILL)
    assert eventually(lambda: switch.dead() == [program])
    here, elsewhere = pod_of(lab.spec, "n3", 8), pod_of(lab.spec, "n1", 8)
    errors = lab.underlay.attach_pods([here, elsewhere])
    assert list(errors) == [here.uid]
    assert here.name in errors[here.uid]
    lab.underlay.revive("n3")
    assert lab.underlay.attach_pods([here]) == {}
    assert here.ofport in lab.ports("n3").values()
    lab.underlay.detach_pods([here, elsewhere])
    lab.route()


def test_ports_settle_while_somebody_else_uses_the_database(lab: Lab) -> None:
    """An `ovs-vsctl` of a user's takes the configuration's number along."""
    database = f"--db=unix:{lab.paths.ovs('n1')}/db.sock"
    pods = [pod_of(lab.spec, "n1", number) for number in range(20, 30)]
    commands = [subprocess.Popen(["ovs-vsctl", database, "--timeout=10", "show"], stdout=subprocess.DEVNULL)]
    for number, pod in enumerate(pods):
        change = ["set", "Open_vSwitch", ".", f"external_ids:n={number}"]
        commands.append(subprocess.Popen(["ovs-vsctl", database, "--timeout=10", *change]))
        assert lab.underlay.attach_pods([pod]) == {}
    assert [command.wait() for command in commands] == [0] * len(commands)
    lab.underlay.detach_pods(pods)


def test_a_node_can_go_and_come(lab: Lab) -> None:
    spec = spec_of("hda", 4)
    plan = plans_of(spec)[3]
    lab.underlay.build_nodes([plan])
    assert lab.ports("n4") == {"uplink": UPLINK_OFPORT, "host": HOST_OFPORT}
    lab.underlay.remove_nodes(["n4"])
    assert not any("n4" in trace for trace in traces("hda"))
    lab.underlay.build_nodes([plan])
    lab.underlay.remove_nodes(["n4", "n4"])


def test_the_machine_stays_as_it_was() -> None:
    before = root_state()
    lab = Lab(spec_of("hdr", outside_hosts=(OutsideHost("e1", IPv4Address("203.0.113.10")),)))
    try:
        lab.up()
        lab.attach(pod_of(lab.spec, "n1", 0))
        during = root_state()
    finally:
        lab.down()
    assert during == before
    assert root_state() == before
    assert traces("hdr") == []


def test_two_clusters_side_by_side_are_strangers() -> None:
    labs = [Lab(spec_of(name, 2)) for name in ("hdx", "hdx2")]
    try:
        for lab in labs:
            lab.up()
            lab.attach(pod_of(lab.spec, "n1", 0), pod_of(lab.spec, "n2", 0))
            lab.route()
        second = labs[1]
        assert {"hdx", "hdx2"} <= set(clusters())
        purge("hdx")
        assert traces("hdx") == []
        assert second.ping(second.pods["default/n1-0"].netns, str(second.pods["default/n2-0"].address.ip))
    finally:
        for lab in labs:
            lab.down()


def test_purge_after_everything_was_killed() -> None:
    lab = Lab(spec_of("hdk"))
    try:
        lab.up()
        lab.attach(*(pod_of(lab.spec, "n1", number) for number in range(5)))
        inside = subprocess.Popen(
            ["ip", "netns", "exec", lab.pods["default/n1-0"].netns, "sleep", "600"], stdin=subprocess.DEVNULL
        )
        for switch in lab.underlay.switches().values():
            os.kill(switch.processes()["ovs-vswitchd"], signal.SIGKILL)
        report = purge("hdk")
        assert inside.pid in report.processes, "a process that only lives in a namespace"
        assert inside.wait() == -signal.SIGKILL
        assert report.namespaces == 9, "three nodes, five pods, the fabric"
        assert traces("hdk") == []
        assert "hdk" not in clusters()
        assert not purge("hdk"), "nothing is left to do"
    finally:
        lab.down()


def test_purge_spares_its_caller_in_the_cluster() -> None:
    """`kmn down` in a shell of the cluster must live to tell what it did."""
    script = "from kmn.emulator.purge import purge; print(purge('hds').processes)"
    command = ["env", "KMN_CLUSTER=hds", "python3", "-c", script]
    assert run(*command).strip() == "[]"


def test_the_edge_leads_outside() -> None:
    host = OutsideHost("e1", IPv4Address("203.0.113.10"))
    lab = Lab(spec_of("hde", 1, outside_hosts=(host,)))
    try:
        lab.up()
        edge = edge_object(lab.spec)["spec"]
        entry = edge["hosts"][0]
        assert set(lab.ports("default").values()) == {edge["fabric"]["ofport"], entry["ofport"]}
        to_host = f"priority=1,ip,nw_dst={host.address},actions=mod_dl_dst:{entry['mac']},output:{entry['ofport']}"
        fabric = edge["fabric"]
        back = f"priority=0,ip,actions=mod_dl_dst:{fabric['nextHopMAC']},output:{fabric['ofport']}"
        for flow in (to_host, back):
            lab.ofctl("default", "add-flow", flow)
        lab.attach(pod_of(lab.spec, "n1", 0))
        lab.route()
        assert lab.ping(lab.pods["default/n1-0"].netns, str(host.address))
        assert lab.ping(entry["netns"], str(lab.pods["default/n1-0"].address.ip))
    finally:
        lab.down()


def test_leaf_and_spine_routers_use_all_shortest_paths() -> None:
    """Two leaves, two spines: a packet between leaves crosses three routers, by either spine."""
    wide, narrow = Link(bandwidth=100_000_000), Link(bandwidth=50_000_000)
    links = [
        FabricLink(leaf, spine, wide if spine == "s1" else narrow) for leaf in ("l1", "l2") for spine in ("s1", "s2")
    ]
    nodes = tuple(NodeSpec(f"n{n}", IPv4Address("172.18.0.1") + n, router=f"l{n}") for n in (1, 2))
    routers = ("l1", "l2", "s1", "s2")
    lab = Lab(ClusterSpec("hdl", nodes, routers=routers, fabric_links=tuple(links), edge_router="s1"))
    try:
        lab.up()
        lab.attach(pod_of(lab.spec, "n1", 0), pod_of(lab.spec, "n2", 0))
        lab.route()
        route = run("ip", "-n", netns_name("hdl", "fabric", "l1"), "route", "show", "10.244.1.0/24")
        assert re.findall(r"weight (\d+)", route) == ["2", "1"], route
        pod, other = lab.pods["default/n1-0"], lab.pods["default/n2-0"]
        answer = run("ip", "netns", "exec", pod.netns, "ping", "-n", "-c1", "-W5", str(other.address.ip))
        assert "ttl=59" in answer, "node, leaf, spine, leaf, node"
        for name in (pod.netns, other.netns):
            assert lab.ping(name, str(lab.spec.fabric_address)), "the API server's address"
    finally:
        lab.down()


def test_bandwidth_holds_in_both_directions() -> None:
    lab = Lab(spec_of("hdw", 2, Link(bandwidth=30_000_000)))
    try:
        lab.up()
        slow = pod_of(lab.spec, "n1", 0, Link(bandwidth=20_000_000))
        lab.attach(slow, pod_of(lab.spec, "n1", 1), pod_of(lab.spec, "n2", 0))
        lab.route()
        here, there = lab.pods["default/n1-1"], lab.pods["default/n2-0"]
        for source, target, limit in ((slow, here, 20e6), (here, slow, 20e6), (here, there, 30e6), (there, here, 30e6)):
            rate = _iperf(source.netns, target.netns, str(target.address.ip))
            assert 0.7 * limit < rate < 1.05 * limit, f"{source.name} to {target.name}: {rate / 1e6:.1f} Mbit/s"
    finally:
        lab.down()


def _iperf(source: str, target: str, address: str) -> float:
    server = subprocess.Popen(
        ["ip", "netns", "exec", target, "iperf3", "-s", "-1"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        assert server.stdout is not None
        listening = ["ip", "netns", "exec", target, "ss", "-Hltn", "sport = :5201"]
        assert eventually(lambda: run(*listening) != "")
        result = run("ip", "netns", "exec", source, "iperf3", "-c", address, "-t2", "-O1", "-J")
        return float(json.loads(result)["end"]["sum_received"]["bits_per_second"])
    finally:
        server.kill()
        server.communicate()


def test_what_the_kernel_cannot_do_is_refused_before_anything_is_made() -> None:
    if not any("delay" in problem for problem in features.problems(_delayed("hdf"))):
        pytest.skip("this kernel has netem")
    lab = Lab(_delayed("hdf"))
    with pytest.raises(UnderlayError, match=r"spec\.nodes\[n1\]\.uplink\.delay: this kernel cannot do it"):
        lab.up()
    assert traces("hdf") == []


def _delayed(name: str) -> ClusterSpec:
    return spec_of(name, 1, Link(delay=0.01))


def test_files_are_for_root_alone(lab: Lab) -> None:
    assert Paths("hda").root.stat().st_mode & 0o077 == 0
    assert netns_name("hda", "fabric") in os.listdir("/run/netns")
