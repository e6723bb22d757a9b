"""The Mininet view on real namespaces: two pods joined by a veth pair, a node; no cluster behind it."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kmn.apiserver.admission_api import NullAdmission
from kmn.apiserver.local import LocalClient
from kmn.apiserver.store import Store
from kmn.emulator.purge import purge
from kmn.errors import UserError
from kmn.k8s.resources import PODS
from kmn.mininet import build
from kmn.mininet.cli import ClusterCLI
from kmn.mininet.net import ClusterNet
from kmn.naming import Paths, netns

pytestmark = pytest.mark.packet

CLUSTER = f"hgview{os.getpid()}"


def _ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True)


def _namespace(*parts: str) -> str:
    name = netns(CLUSTER, *parts)
    _ip("netns", "add", name)
    _ip("-n", name, "link", "set", "lo", "up")
    return name


def _pod(namespace: str, name: str, address: str, *, phase: str = "Running", node: str = "n1") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": {
                "kmn.io/netns": netns(CLUSTER, "pod", namespace, name),
                "kmn.io/mac": "0a:58:0a:f4:00:02",
                "kmn.io/ofport": "10",
            },
        },
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": phase, "podIP": address},
    }


@pytest.fixture
def client() -> Iterator[LocalClient]:
    one, two = _namespace("pod", "default", "web-1"), _namespace("pod", "default", "web-2")
    node = _namespace("node", "n1")
    try:
        _ip("-n", one, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", two)
        for name, address in ((one, "10.244.0.2/24"), (two, "10.244.0.3/24")):
            _ip("-n", name, "addr", "add", address, "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
        local = LocalClient(Store(), NullAdmission())
        local.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})
        local.create(_pod("default", "web-1", "10.244.0.2"))
        local.create(_pod("default", "web-2", "10.244.0.3"))
        local.create(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": "n1", "annotations": {"kmn.io/netns": node, "kmn.io/mac": "0a:58:ac:12:00:02"}},
                "spec": {},
                "status": {"addresses": [{"type": "InternalIP", "address": "172.18.0.2"}]},
            }
        )
        yield local
    finally:
        purge(CLUSTER)


@pytest.fixture
def net(client: LocalClient) -> Iterator[ClusterNet]:
    view = build(client, CLUSTER)
    yield view
    view.close()


def test_names_addresses_and_links(net: ClusterNet) -> None:
    assert list(net) == ["web-1", "web-2", "n1", "n1-br0"]
    assert net.get("web-1").IP() == "10.244.0.2"
    assert net["default.web-2"] is net["web-2"]
    assert net["n1"].MAC() == "0a:58:ac:12:00:02"
    assert [str(link) for link in net.links][:1] == ["n1-eth0<->n1-br0-port2"]


def test_shells_start_on_first_use_and_commands_run_in_the_pod(net: ClusterNet) -> None:
    pod = net.get("web-1")
    assert pod.shell is None
    assert "10.244.0.2/24" in pod.cmd("ip -br addr show eth0")
    assert pod.cmd("hostname").strip() == "web-1"
    assert pod.cmd("echo $KMN_CLUSTER").strip() == CLUSTER
    assert net.get("web-2").shell is None


def test_exit_code_and_output_of_a_program(net: ClusterNet) -> None:
    out, err, code = net.get("web-1").pexec(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (out, err, code) == ("out\n", "err\n", 3)
    assert net.get("web-1").shell is None, "popen needs no shell"


def test_pingall_covers_the_pods(net: ClusterNet) -> None:
    assert net.pingAll(timeout="2") == 0


def test_interrupt_ends_the_running_command(net: ClusterNet) -> None:
    pod = net.get("web-1")
    pod.sendCmd("ping -i 0.1 10.244.0.3")
    output = ""
    while "bytes from" not in output:
        output += pod.monitor(timeoutms=5000)
    pod.sendInt()
    output += pod.waitOutput()
    assert "packets transmitted" in output
    assert pod.cmd("echo alive").strip() == "alive"


def test_iperf_measures_and_leaves_no_server(net: ClusterNet) -> None:
    rates = net.iperf([net["web-1"], net["web-2"]], seconds=0.2)
    assert len(rates) == 2
    assert all("bits/sec" in rate for rate in rates)
    assert not net["web-2"].pexec("ss -Hnlt")[0].strip()


def test_the_view_follows_the_cluster(net: ClusterNet, client: LocalClient) -> None:
    kept = net.get("web-1")
    kept.cmd("true")
    shell = kept.shell
    _namespace("pod", "other", "web-1")
    client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}})
    client.create(_pod("other", "web-1", "10.244.0.4"))
    client.delete(PODS, "default", "web-2", grace_seconds=0)
    net.refresh()
    assert [host.name for host in net.hosts] == ["default.web-1", "other.web-1"]
    assert net["default.web-1"] is kept
    assert kept.shell is shell
    with pytest.raises(KeyError):
        net.get("web-1")


def test_finished_and_unmade_pods_are_no_hosts(net: ClusterNet, client: LocalClient) -> None:
    client.create(_pod("default", "pending", "10.244.0.9"))  # its namespace does not exist
    client.create(_pod("default", "done", "10.244.0.10", phase="Succeeded"))
    net.refresh()
    assert [host.name for host in net.hosts] == ["web-1", "web-2"]


def test_changing_the_network_by_hand_is_refused(net: ClusterNet) -> None:
    with pytest.raises(UserError, match=r"addHost h9.*apply a Pod"):
        net.addHost("h9")
    with pytest.raises(UserError, match="delNode web-1"):
        net.delHost(net["web-1"])


def test_close_ends_the_shells(net: ClusterNet) -> None:
    pod = net.get("web-1")
    pod.cmd("true")
    pid = pod.shell.pid
    net.close()
    assert not os.path.exists(f"/proc/{pid}")
    assert len(net) == 0


def test_a_view_of_a_thousand_pods_starts_no_process(client: LocalClient) -> None:
    # All in one namespace that exists: the view asks for the names only.
    shared = netns(CLUSTER, "pod", "default", "web-1")
    for number in range(1000):
        pod = _pod("default", f"many-{number}", "10.244.1.1")
        pod["metadata"]["annotations"]["kmn.io/netns"] = shared
        client.create(pod)
    view = build(client, CLUSTER)
    assert len(view.hosts) == 1002
    assert all(host.shell is None for host in view.hosts)
    view.close()


def test_a_shell_that_ended_is_started_again(net: ClusterNet) -> None:
    pod = net.get("web-1")
    pod.cmd("true")
    pod.cmd("exit")
    assert pod.shell is None
    assert pod.cmd("echo again").strip() == "again"


def test_other_loggers_stay_what_they_were() -> None:
    assert logging.getLoggerClass() is logging.Logger


def test_output_may_be_any_bytes(net: ClusterNet) -> None:
    # Invalid UTF-8, the byte that Mininet takes for the prompt, and the one that it takes for a process number.
    assert net["web-1"].cmd(r"printf 'a\377b\177c\001d\303'") == "a\ufffdb\ufffdc\x01d\ufffd"
    assert net["web-1"].cmd("echo after").strip() == "after"


def _commands(net: ClusterNet, tmp_path: Path, *lines: str) -> ClusterCLI:
    script = tmp_path / "script"
    script.write_text("\n".join(lines) + "\n")
    with open(os.devnull) as nothing:
        return ClusterCLI(net, stdin=nothing, script=str(script))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the CLI printed."""
    lines: list[str] = []
    for name in ("output", "error"):
        monkeypatch.setattr(f"kmn.mininet.cli.{name}", lambda *parts: lines.append("".join(map(str, parts))))
    monkeypatch.setattr("mininet.cli.output", lambda *parts: lines.append("".join(map(str, parts))))
    return lines


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("source /nowhere", "/nowhere: no such file"),
        ("switch n1-br0 stop", "the cluster runs its bridges itself"),
        ("switch s9 stop", "there are: n1-br0"),
        ("link web-1 n9 down", "n9: not in this network"),
        ("link web-1 n1 down", "not joined by a link"),
        ("nonsense", "Unknown command: nonsense"),
    ],
)
def test_a_command_that_fails_does_not_end_the_cli(
    net: ClusterNet, tmp_path: Path, said: list[str], line: str, problem: str
) -> None:
    assert _commands(net, tmp_path, line, "web-1 echo alive").failed
    assert any(problem in text for text in said), said
    assert "alive\r\n" in said


def test_a_shell_that_ends_ends_the_command(net: ClusterNet, tmp_path: Path, said: list[str]) -> None:
    assert not _commands(net, tmp_path, "web-1 exit", "web-1 echo again").failed
    assert "again\r\n" in said


def test_stopping_the_cluster_through_the_view_is_refused(net: ClusterNet) -> None:
    for stop in (net.stop, net["web-1"].stop, net["n1-br0"].stop, net["n1-br0"].start):
        with pytest.raises(UserError, match="cluster"):
            stop()


def test_down_and_up_again_keeps_routes_and_neighbours(net: ClusterNet) -> None:
    Paths(CLUSTER).root.mkdir(parents=True)
    pod = net["web-1"]
    pod.cmd("ip route add default via 10.244.0.1")
    pod.cmd("ip route add 192.0.2.1 via 192.0.2.9 dev eth0 onlink")
    pod.cmd("ip neigh add 192.0.2.9 lladdr 0a:00:00:00:00:09 dev eth0 nud permanent")
    shown = "ip route; ip neigh show nud permanent"
    before = pod.cmd(shown)
    assert "192.0.2.9" in before
    eth0 = pod.defaultIntf()
    for status in ("down", "down", "up"):
        assert not eth0.ifconfig(status)
        assert (before == pod.cmd(shown)) == (status == "up")
