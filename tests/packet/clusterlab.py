"""Whole clusters for tests: started, looked at, and checked for what they leave behind and complain about."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from traffic import Answer, Question, answered

from controller.cluster import Cluster as Flows
from controller.pipeline import Table
from kmn import Cluster
from kmn.emulator.purge import clusters
from kmn.k8s.dataplane import MAC, NETNS
from kmn.k8s.objects import Object, condition, labels, name_of, namespace_of
from kmn.k8s.resources import CLUSTERS, EDGES, ENDPOINTSLICES, NAMESPACES, NODES, PODS, SERVICES
from kmn.machine import Machine
from kmn.naming import NETNS_DIR, netns_prefix
from kmn.ovstools import argv

# A Deployment of two pods, a Service of them, and a pod to ask from.
WEB = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: example.com/web:1, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {containers: [{name: client, image: example.com/client:1}]}
"""


@contextmanager
def running(suffix: str, **spec: Any) -> Iterator[Cluster]:
    """A cluster of three nodes and one outside host, whose logs hold no traceback in the end."""
    name = f"hi{suffix}{os.getpid()}"
    wanted = {"nodes": [{"count": 3}], "probes": {"initialDelay": "0s"}, **spec}
    with Cluster({"apiVersion": "kmn.io/v1", "kind": "Cluster", "metadata": {"name": name}, "spec": wanted}) as cluster:
        yield cluster
        for file in sorted(cluster.paths.log.iterdir()):
            text = file.read_text(errors="replace")
            assert "Traceback" not in text, f"{file.name}:\n{text[text.index('Traceback') :][:4000]}"
    assert name not in clusters()
    assert not list(NETNS_DIR.glob(f"{netns_prefix(name)}*"))


def make_namespace(cluster: Cluster, name: str) -> None:
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})


def eventually(check: Callable[[], bool], what: str, timeout: float = 20) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + timeout
    while not check():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.01)


def appctl(cluster: Cluster, switch: str, *command: str) -> str:
    """What ``ovs-appctl`` says to the switch of a node, or of the edge by the name of its Edge."""
    line = argv(cluster.paths.ovs(switch), "appctl", command)
    return subprocess.run(line, capture_output=True, text=True, check=True, timeout=20).stdout


def assert_flows_as_printed(cluster: Cluster, *bridges: str) -> None:
    """Switches (of nodes, or the edge by the name of its Edge) have the flows and groups that the controller computes,
    in its words; so the golden flows of the unit tests are what is on a switch."""
    cluster.wait_ready()
    wanted = Flows()
    for resource in (CLUSTERS, NAMESPACES, NODES, PODS, SERVICES, ENDPOINTSLICES, EDGES):
        for obj in cluster.client.list(resource).items:
            wanted.apply(resource.plural, "ADDED", obj)
    wanted.compute()
    for bridge in bridges:
        management = f"unix:{cluster.paths.ovs(bridge)}/br0.mgmt"
        command = ["ovs-ofctl", "-O", "OpenFlow15", "dump-flows", "--no-stats", management]
        installed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
        learned = tuple(f" table={int(table)}, " for table in (Table.AFFINITY, Table.ROTATION))
        lines = {line for line in installed.splitlines() if not any(table in line for table in learned)}
        assert lines == {str(flow) for scope in wanted.scopes(bridge) for flow in scope.flows.values()}
        command = ["ovs-ofctl", "-O", "OpenFlow15", "dump-groups", management]
        installed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
        groups = {line for line in installed.splitlines() if line.startswith(" group_id")}
        assert groups == {str(group) for scope in wanted.scopes(bridge) for group in scope.groups.values()}


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a Service, and what stands behind it by the Service's selector (not by EndpointSlices)."""

    namespace: str
    name: str
    address: str
    port: int
    protocol: str
    pods: frozenset[str]
    targets: frozenset[int]  # container ports


class Census:
    """Ready pods, nodes and Services of a cluster as the API tells them at one moment."""

    def __init__(self, cluster: Cluster, *namespaces: str) -> None:
        listed = [pod for name in namespaces or ("",) for pod in cluster.client.list(PODS, name or None).items]
        self.objects = [pod for pod in listed if "deletionTimestamp" not in pod["metadata"] and is_ready(pod)]
        own = [pod for pod in self.objects if not pod["spec"].get("hostNetwork")]
        self.pods = [_machine(cluster.name, pod) for pod in own]
        self.nodes = [cluster.node(name_of(node)) for node in cluster.client.list(NODES).items]
        self._services = [s for name in namespaces or ("",) for s in cluster.client.list(SERVICES, name or None).items]

    def named(self, prefix: str) -> list[Machine]:
        """Pods whose names begin so."""
        return [pod for pod in self.pods if pod.hostname.startswith(prefix)]

    def service_ports(self) -> list[ServicePort]:
        """Ports of all Services that have an address and a selector."""
        return [
            self._service_port(service, port)
            for service in self._services
            if service["spec"].get("selector") and service["spec"].get("clusterIP", "None") != "None"
            for port in service["spec"]["ports"]
        ]

    def _service_port(self, service: Object, port: Object) -> ServicePort:
        behind = {}
        for pod in self.objects:
            chosen = service["spec"]["selector"].items() <= labels(pod).items()
            if chosen and namespace_of(pod) == namespace_of(service):
                behind[name_of(pod)] = _target(pod, port)
        return ServicePort(
            namespace_of(service), name_of(service), service["spec"]["clusterIP"], port["port"],
            port.get("protocol", "TCP"), frozenset(behind), frozenset(behind.values()),
        )  # fmt: skip


def _machine(cluster: str, pod: Object) -> Machine:
    """Without asking again whether the pod is there."""
    name = f"{namespace_of(pod)}/{name_of(pod)}"
    notes = pod["metadata"]["annotations"]
    return Machine(cluster, "pod", name, notes[NETNS], pod["status"]["podIP"], notes[MAC])


def is_ready(pod: Object) -> bool:
    ready = condition(pod, "Ready")
    return ready is not None and ready["status"] == "True"


def _target(pod: Object, port: Object) -> int:
    target = port.get("targetPort", port["port"])
    if isinstance(target, int):
        return target
    declared = (p for container in pod["spec"]["containers"] for p in container.get("ports") or ())
    return next(int(p["containerPort"]) for p in declared if p.get("name") == target)


def get(asker: Machine, host: str, port: int, protocol: str = "TCP") -> Answer:
    return answered(Question(asker, host, port, protocol))
