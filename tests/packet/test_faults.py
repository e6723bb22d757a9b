"""A running cluster whose parts are killed, one after the other: what goes on, what comes back, and how."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from faultlab import TOPOLOGIES, answers, ask, flows, pid_of, pids, ready_nodes, switch_pid, talking, wait_for

from kmn import Cluster
from kmn.k8s.objects import Object, condition, name_of
from kmn.k8s.resources import DEPLOYMENTS, NODES, PODS, SERVICES
from kmn.machine import Machine

pytestmark = pytest.mark.packet

NAME = f"hjfault{os.getpid()}"
BRIDGES = ("n1", "n2", "n3", "default")  # the edge's by the name of its Edge
NODE_NAMES = {"n1", "n2", "n3"}


@pytest.fixture(scope="module")
def shop() -> Iterator[Cluster]:
    with Cluster(TOPOLOGIES / "demo.yaml", name=NAME) as cluster:
        cluster.wait_ready()
        yield cluster


@pytest.fixture
def cluster(shop: Cluster) -> Cluster:
    """The shop, whatever the last test did to it."""
    shop.wait_ready(30)
    return shop


class Places:
    """Pods by where they are."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        listed = cluster.client.list(PODS, "default").items
        self.node_of = {name_of(pod): pod["spec"]["nodeName"] for pod in listed}
        self.port_of = {name_of(pod): _first_port(pod) for pod in listed}

    def on(self, *nodes: str) -> list[Machine]:
        """Pods on one of these nodes that listen somewhere."""
        names = sorted(name for name, node in self.node_of.items() if node in nodes and self.port_of[name])
        return [self.cluster.pod(name) for name in names]

    def way(self, client: Machine, server: Machine) -> tuple[Machine, str, int]:
        return client, server.ip, self.port_of[server.hostname]


def _first_port(pod: Object) -> int:
    ports = pod["spec"]["containers"][0].get("ports") or [{}]
    return ports[0].get("containerPort", 0) if ports[0].get("protocol") == "TCP" else 0


def virtual(cluster: Cluster, service: str) -> tuple[str, int]:
    """Address and port of a Service."""
    spec = cluster.client.get(SERVICES, "default", service)["spec"]
    return spec["clusterIP"], spec["ports"][0]["port"]


def ways(cluster: Cluster) -> list[tuple[Machine, str, int]]:
    """Through a virtual address, within a node, across nodes, from a node, and to the outside."""
    places, load = Places(cluster), cluster.pod("load")
    here = places.node_of["load"]
    near, far = places.on(here)[0], places.on(*NODE_NAMES - {here})[0]
    return [
        (load, *virtual(cluster, "cart")),
        places.way(load, near),
        places.way(load, far),
        places.way(cluster.node("n1"), far),
        (load, cluster.host("e1").ip, 7),
    ]


def read_log(cluster: Cluster, name: str, offset: int) -> str:
    return (cluster.paths.log / name).read_text()[offset:]


def killed(cluster: Cluster, what: str) -> int:
    """Kill a child process of the cluster; the process id of the next one."""
    before = pid_of(cluster.name, what)
    os.kill(before, signal.SIGKILL)

    def successor() -> int:
        now = pid_of(cluster.name, what)
        return now if now != before else 0

    return int(wait_for(successor, f"a new {what}"))


def await_flows(cluster: Cluster, wanted: dict[str, list[str]]) -> None:
    """Wait until bridges have these flows and groups again."""

    def difference() -> list[str]:
        found = []
        for bridge, lines in wanted.items():
            has = flows(cluster, bridge)
            found += [f"{bridge} lacks {line}" for line in lines if line not in has]
            found += [f"{bridge} has too much {line}" for line in has if line not in lines]
        return found

    deadline = time.monotonic() + 20
    while missing := difference():
        assert time.monotonic() < deadline, missing


class Watcher:
    """Which nodes were told to be not ready, from the start of the block on."""

    def __init__(self, cluster: Cluster) -> None:
        self.unready: set[str] = set()
        version = cluster.client.list(NODES).resource_version
        self._watch = cluster.client.watch(NODES, version)
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        for event in self._watch:
            ready = condition(event.object, "Ready") if event.type != "BOOKMARK" else None
            if ready is not None and ready["status"] != "True":
                self.unready.add(name_of(event.object))

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._watch.close()
        self._thread.join()


# --- the controller ---------------------------------------------------------------------------------------------------


def test_a_killed_controller_is_not_missed_and_changes_nothing_when_it_is_back(cluster: Cluster) -> None:
    before = {bridge: flows(cluster, bridge) for bridge in BRIDGES}
    assert min(map(len, before.values())) > 5
    offset = len(read_log(cluster, "controller.log", 0))
    with talking(*ways(cluster)) as talks:
        killed(cluster, "controller")
        for talk in talks:
            talk.check()
        for bridge in BRIDGES:
            wait_for(
                lambda b=bridge: f"{b}: in step" in read_log(cluster, "controller.log", offset), f"{bridge} in step"
            )
        assert max(talk.longest for talk in talks) < 1, [(talk.name, talk.longest) for talk in talks]
    said = [line for line in read_log(cluster, "controller.log", offset).splitlines() if "modifications" in line]
    assert len(said) == len(BRIDGES)
    assert [line for line in said if " 0 modifications needed" not in line] == []
    assert {bridge: flows(cluster, bridge) for bridge in BRIDGES} == before


def test_changes_made_while_the_controller_is_away_are_in_force_when_it_is_back(cluster: Cluster) -> None:
    client = cluster.client
    offset = len(read_log(cluster, "controller.log", 0))
    with talking(*ways(cluster)):
        os.kill(pid_of(cluster.name, "controller"), signal.SIGKILL)
        # The next one needs some hundred milliseconds to load its modules.
        checkout = client.get(SERVICES, "default", "checkout")
        added = {**checkout, "metadata": {"name": "later", "namespace": "default"}, "spec": {
            "selector": {"app": "checkout"}, "ports": [{"port": 81, "targetPort": 8080}]}}  # fmt: skip
        client.create(added)
        client.delete(SERVICES, "default", "checkout")
        assert "modifications" not in read_log(cluster, "controller.log", offset), "the test came too late"
        cluster.wait_ready(30)
        load = cluster.pod("load")
        assert ask(load, *virtual(cluster, "later"))["pod"].startswith("checkout-")
        address = checkout["spec"]["clusterIP"]
        assert not answers(load, address, 8080, timeout=0.5)
    gone = [line for bridge in NODE_NAMES for line in flows(cluster, bridge) if f"nw_dst={address}," in line]
    assert gone == []
    client.delete(SERVICES, "default", "later")
    plain = {key: value for key, value in checkout["spec"].items() if not key.startswith("clusterIP")}
    client.create({**checkout, "metadata": {"name": "checkout", "namespace": "default"}, "spec": plain})


# --- Open vSwitch -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("programs", [("ovs-vswitchd",), ("ovsdb-server",), ("ovs-vswitchd", "ovsdb-server")])
def test_a_killed_switch_comes_back_to_the_same_flows(cluster: Cluster, programs: tuple[str, ...]) -> None:
    places = Places(cluster)
    second, third = places.on("n2")[0], places.on("n3")[0]
    first = places.on("n1")[0]
    before = flows(cluster, "n1")
    with talking(places.way(second, third), places.way(cluster.node("n3"), second)) as elsewhere:
        with Watcher(cluster) as watcher:
            for program in programs:
                os.kill(switch_pid(cluster, "n1", program), signal.SIGKILL)
            wait_for(lambda: watcher.unready, "n1 NotReady")
            wait_for(lambda: ready_nodes(cluster) == NODE_NAMES, "n1 Ready")
            assert watcher.unready == {"n1"}
        for client, server in ((first, third), (third, first)):
            _, address, port = places.way(client, server)
            wait_for(lambda c=client, a=address, p=port: answers(c, a, p), f"{client} reaches {server}", 10)
        address, port = virtual(cluster, "frontend")
        wait_for(lambda: answers(first, address, port), "a Service is reached from n1", 10)
        await_flows(cluster, {"n1": before})
        assert max(talk.longest for talk in elsewhere) < 1, "other nodes are not disturbed"


def test_traffic_goes_on_without_a_database(cluster: Cluster) -> None:
    """Connections survive; a new pod needs a new database. With the userspace datapath packets wait meanwhile: the
    thread that forwards them pauses until it is connected to a database again, which it tries after a second."""
    places = Places(cluster)
    first, third = places.on("n1")[0], places.on("n3")[0]
    virtual_way = (first, *virtual(cluster, "cart"))
    with talking(places.way(first, third), places.way(third, first), virtual_way) as talks:
        before = switch_pid(cluster, "n1", "ovsdb-server")
        os.kill(before, signal.SIGKILL)
        wait_for(lambda: switch_pid(cluster, "n1", "ovsdb-server") not in (0, before), "a new ovsdb-server")
        cluster.apply(_pod("late", "n1"))
        cluster.wait_ready(30)
        assert max(talk.longest for talk in talks) < 3, [(talk.name, talk.longest) for talk in talks]
    assert answers(third, cluster.pod("late").ip, 80)
    cluster.delete(_pod("late", "n1"))


def test_a_killed_switch_of_the_edge_comes_back(cluster: Cluster) -> None:
    load, host = cluster.pod("load"), cluster.host("e1")
    before = flows(cluster, "default")
    for program in ("ovs-vswitchd", "ovsdb-server"):
        os.kill(switch_pid(cluster, "default", program), signal.SIGKILL)
    wait_for(lambda: answers(load, host.ip, 80), "the outside is reached again", 10)
    await_flows(cluster, {"default": before})


def _pod(name: str, node: str) -> Object:
    container = {"name": "c", "image": "example.com/c:1", "ports": [{"containerPort": 80}]}
    spec = {"nodeName": node, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


# --- the other processes ----------------------------------------------------------------------------------------------


def test_a_killed_runtime_restarts_all_containers_and_counts(cluster: Cluster) -> None:
    def restarts() -> dict[str, int]:
        pods = cluster.client.list(PODS, "default").items
        return {name_of(pod): pod["status"]["containerStatuses"][0]["restartCount"] for pod in pods}

    before = restarts()
    untouched = {bridge: switch_pid(cluster, bridge, "ovs-vswitchd") for bridge in BRIDGES}
    killed(cluster, "runtime")
    wanted = {name: count + 1 for name, count in before.items()}
    wait_for(lambda: restarts() == wanted, "every container started anew, once")
    cluster.wait_ready(30)
    load = cluster.pod("load")
    for service in ("frontend", "catalog", "checkout"):
        assert answers(load, *virtual(cluster, service)), service
    assert answers(load, cluster.host("e1").ip, 80)
    assert restarts() == wanted
    assert {bridge: switch_pid(cluster, bridge, "ovs-vswitchd") for bridge in BRIDGES} == untouched


def test_a_killed_dns_server_answers_again(cluster: Cluster) -> None:
    load = cluster.pod("load")
    frontend, _ = virtual(cluster, "frontend")

    def resolved() -> bool:
        lookup = load.run(["env", "RES_OPTIONS=timeout:1 attempts:1", "getent", "ahostsv4", "frontend"])
        return lookup.stdout.startswith(f"{frontend} ")

    assert resolved()
    killed(cluster, "dns")
    wait_for(resolved, "the name of a Service")


def test_all_child_processes_at_once(cluster: Cluster) -> None:
    """Everything but the cluster's own process, which holds the objects."""
    daemon = pid_of(cluster.name, "daemon")
    before = {bridge: flows(cluster, bridge) for bridge in BRIDGES}
    for pid in pids(cluster.name):
        if pid != daemon:
            os.kill(pid, signal.SIGKILL)
    load = cluster.pod("load")
    wait_for(lambda: answers(load, *virtual(cluster, "frontend")), "a Service")
    wait_for(lambda: ready_nodes(cluster) == NODE_NAMES, "all nodes Ready")
    cluster.wait_ready(30)
    await_flows(cluster, before)
    # And it is a cluster that works.
    scaled = cluster.client.get(DEPLOYMENTS, "default", "payment")
    cluster.client.update({**scaled, "spec": {**scaled["spec"], "replicas": 3}})
    cluster.wait_ready(30)
    assert pid_of(cluster.name, "daemon") == daemon
