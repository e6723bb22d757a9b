"""Clusters among themselves, and the machine that they run on: nobody notices anybody."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from faultlab import answers, ask, kmn, machine_state, pid_of, pids, talking, traces, wait_for

from kmn import Cluster
from kmn.k8s.objects import name_of
from kmn.k8s.resources import PODS, SERVICES
from kmn.machine import Machine

pytestmark = pytest.mark.packet

ONE, OTHER = f"hjone{os.getpid()}", f"hjother{os.getpid()}"
WEB = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: %s}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: example.com/web:1, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.7.7, selector: {app: web}, ports: [{port: 80}]}
"""


@contextmanager
def cluster(name: str) -> Iterator[Cluster]:
    """Two nodes and an outside host, at the default addresses; its pods are called after it."""
    with Cluster(name=name, manifests=[WEB % name]) as running:
        running.wait_ready()
        yield running


def web_pods(running: Cluster) -> list[Machine]:
    pods = running.client.list(PODS, "default").items
    return [running.pod(name) for name in sorted(map(name_of, pods))]


def check_works_alone(running: Cluster, stranger: Cluster | None) -> None:
    """Every address is answered by the cluster's own pods."""
    pods = web_pods(running)
    own = {pod.hostname for pod in pods}
    assert len(own) == 4
    targets = {pod.ip for pod in pods}
    if stranger is not None:
        targets &= {pod.ip for pod in web_pods(stranger)}
        assert targets, "both have pods at the same addresses"
    for client in (*pods[:2], running.node("n1")):
        for target in (*targets, "10.96.7.7"):
            found = ask(client, target, 80)
            assert found["pod"] in own
        assert ask(client, running.host("e1").ip, 80)["pod"] == "e1"


def test_two_clusters_with_the_same_addresses() -> None:
    before = machine_state()
    with cluster(ONE) as one:
        here = web_pods(one)
        way = [(here[0], "10.96.7.7", 80), (here[0], here[1].ip, 80), (here[0], one.host("e1").ip, 7)]
        with talking(*way) as talks:
            with cluster(OTHER) as other:
                check_works_alone(one, other)
                check_works_alone(other, one)
                assert (
                    one.client.get(SERVICES, "default", "web")["metadata"]["uid"]
                    != (other.client.get(SERVICES, "default", "web")["metadata"]["uid"])
                )
                for pid in pids(OTHER):
                    if pid != pid_of(OTHER, "daemon"):
                        os.kill(pid, signal.SIGKILL)
                for talk in talks:
                    talk.check()
                wait_for(lambda: answers(web_pods(other)[0], "10.96.7.7", 80), "the other one recovers")
            assert traces(OTHER) == []
            for talk in talks:
                talk.check()
            check_works_alone(one, None)
            up = kmn("up", "--name", OTHER, "--detach")
            assert up.returncode == 0, up.stderr
            for pid in pids(OTHER):
                os.kill(pid, signal.SIGKILL)
            wait_for(lambda: not pids(OTHER), "the end of the other one's processes")
            assert kmn("clean", OTHER).returncode == 0
            assert traces(OTHER) == []
        check_works_alone(one, None)
    assert traces(ONE) == []
    assert machine_state() == before


def test_the_machine_does_not_notice() -> None:
    """While a cluster runs, is full of traffic, and after it: only the API's port on loopback is new."""
    before = machine_state()
    with cluster(ONE) as one:
        check_works_alone(one, None)
        assert one.pod(web_pods(one)[0].hostname).run(["ping", "-c", "1", one.host("e1").ip]).returncode == 0
        during = machine_state()
        assert during == before
        listening = own_listeners(ONE)
        assert [kind for kind, _ in listening] == ["daemon"]
        assert listening[0][1].startswith("127.0.0.1:")
        assert int(listening[0][1].rpartition(":")[2]) == int(api_url(one).rpartition(":")[2])
    assert machine_state() == before


def own_listeners(name: str) -> list[tuple[str, str]]:
    """What processes of a cluster listen on in the machine's own network namespace: (process, address)."""
    lines = subprocess.run(["ss", "-Hlntup"], capture_output=True, text=True, check=True).stdout.splitlines()
    own = pids(name)
    return [(kind, line.split()[4]) for line in lines for pid, kind in own.items() if f"pid={pid}," in line]


def api_url(running: Cluster) -> str:
    return str(running.client.url)


def test_processes_stay_out_of_the_machines_network() -> None:
    """What forwards packets lives in the namespaces of the cluster."""
    with cluster(ONE):
        machine = os.stat("/proc/self/ns/net").st_ino
        switches = [pid for pid, kind in pids(ONE).items() if kind in ("ovs-vswitchd", "ovsdb-server")]
        assert len(switches) == 2 * 3
        assert machine not in {os.stat(f"/proc/{pid}/ns/net").st_ino for pid in switches}
        listed = json.loads(kmn("list", "-o", "json").stdout)
        assert [entry["state"] for entry in listed if entry["name"] == ONE] == ["running"]
