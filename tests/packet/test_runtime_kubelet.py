"""The life of pods: started when their flows are in force, probed, restarted, ended. Real sockets and packets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from podlab import NODE_ADDRESS, PodLab, exchange, lab, run_in

from kmn import environment
from kmn.k8s.objects import condition, owner_reference
from kmn.k8s.resources import NODES, PODS, SERVICES

pytestmark = pytest.mark.packet


def in_lab(test: Callable[[PodLab], Awaitable[None]]) -> None:
    async def run() -> None:
        async with lab("he-kubelet") as it:
            await test(it)

    asyncio.run(run())


def one(ports: list[dict[str, Any]] | None = None, **fields: Any) -> dict[str, Any]:
    """A pod's spec with one container."""
    return {"containers": [{"name": "c", "image": "x", "ports": ports or [{"containerPort": 80}], **fields}]}


def http(port: int | str = 80, **fields: Any) -> dict[str, Any]:
    return {"httpGet": {"port": port, "path": "/healthz"}, "periodSeconds": 1, **fields}


def test_containers_start_only_when_the_flows_are_in_force() -> None:
    async def check(it: PodLab) -> None:
        pod = it.bind("web", one())
        uid = pod["metadata"]["uid"]
        await it.until(lambda: uid in it.plumber.attached, "attached")
        it.in_force(int(pod["metadata"]["resourceVersion"]) - 1)
        await it.until(lambda: it.container("web"), "ContainerCreating is said")
        assert it.container("web")["state"] == {"waiting": {"reason": "ContainerCreating"}}
        with pytest.raises(ConnectionRefusedError):
            await exchange(it.node_netns, pod["status"]["podIP"], 80, b"x")
        it.in_force(int(pod["metadata"]["resourceVersion"]))
        await it.ready("web")
        assert it.pod("web")["status"]["phase"] == "Running"
        assert "Started" in it.events("web")

    in_lab(check)


def test_files_of_a_pod() -> None:
    async def check(it: PodLab) -> None:
        pod = it.bind("web", one())
        await it.until(lambda: pod["metadata"]["uid"] in it.plumber.attached, "attached")
        port = it.plumber.attached[pod["metadata"]["uid"]]
        assert "search default.svc.cluster.local svc.cluster.local cluster.local\n" in port.resolv_conf
        assert f"{pod['status']['podIP']}\tweb\n" in port.hosts

    in_lab(check)


def test_environment_of_a_container() -> None:
    """As of its start: Services that come later are for those that start later."""

    def service(name: str, ip: str) -> dict[str, Any]:
        spec = {"clusterIP": ip, "ports": [{"port": 80}]}
        return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": spec}

    async def check(it: PodLab) -> None:
        it.in_force()
        it.client.create(service("kubernetes", "10.96.0.1"))
        it.client.create(service("first", "10.96.0.2"))
        settings = {"configMapKeyRef": {"name": "settings", "key": "level"}}
        env = [{"name": "WHO", "value": "$(FIRST_SERVICE_HOST)"}, {"name": "LEVEL", "valueFrom": settings}]
        it.bind("early", one(env=env[:1]))
        it.bind("unlinked", {**one(), "enableServiceLinks": False})
        it.bind("waiting", one(env=env))
        await it.ready("early", "unlinked")
        await it.until(lambda: "Failed" in it.events("waiting"), "Failed")
        state = {"waiting": {"reason": "CreateContainerConfigError", "message": 'configmap "settings" not found'}}
        await it.until(lambda: it.container("waiting").get("state") == state, "what is missing is said")
        it.client.create(service("second", "10.96.0.3"))
        config = {"kind": "ConfigMap", "metadata": {"name": "settings", "namespace": "default"}}
        it.client.create({"apiVersion": "v1", **config, "data": {"level": "debug"}})
        await it.ready("waiting")
        early, unlinked, waiting = (
            environment.read(it.paths.environment("default", name)) for name in ("early", "unlinked", "waiting")
        )
        assert early["WHO"] == early["FIRST_SERVICE_HOST"] == "10.96.0.2"
        assert "SECOND_SERVICE_HOST" not in early
        assert {name for name in unlinked if name.endswith("_HOST")} == {"KUBERNETES_SERVICE_HOST"}
        assert (waiting["LEVEL"], waiting["SECOND_SERVICE_HOST"]) == ("debug", "10.96.0.3")
        it.client.delete(PODS, "default", "early", grace_seconds=0)
        await it.until(lambda: not it.paths.environment("default", "early").exists(), "its environment goes with it")

    in_lab(check)


def test_probes_by_http_tcp_and_grpc_pass_and_gate() -> None:
    async def check(it: PodLab) -> None:
        it.in_force()
        named = [{"containerPort": 8080, "name": "web"}]
        it.bind("http", one(named, startupProbe=http("web"), readinessProbe=http("web"), livenessProbe=http("web")))
        it.bind("tcp", one(readinessProbe={"tcpSocket": {"port": 80}}))
        it.bind("grpc", one(readinessProbe={"grpc": {"port": 80}}))
        it.bind("extra", one(readinessProbe=http(81)))  # no containerPort: its program listens there all the same
        it.bind("closed", one(readinessProbe=http(81)), annotations={"kmn.io/program": "none"})
        it.bind("named", one(readinessProbe={"tcpSocket": {"port": 80, "host": "example.com"}}))
        it.bind("gated", {**one(), "readinessGates": [{"conditionType": "x.io/ok"}]})
        await it.ready("http", "tcp", "grpc", "extra")
        await it.until(lambda: "Unhealthy" in it.events("closed"), "Unhealthy")
        assert "connection refused" in it.events("closed")["Unhealthy"]
        assert not it.is_ready("closed")
        await it.until(lambda: "lookup example.com" in it.events("named").get("Unhealthy", ""), "refused")
        assert not it.is_ready("gated")
        gated = it.pod("gated")
        conditions = [*gated["status"]["conditions"], {"type": "x.io/ok", "status": "True"}]
        it.client.update({**gated, "status": {**gated["status"], "conditions": conditions}}, subresource="status")
        await it.ready("gated")

    in_lab(check)


def test_readiness_switch() -> None:
    async def check(it: PodLab) -> None:
        it.in_force()
        probe = http(failureThreshold=1)
        it.bind("probed", one(readinessProbe=probe))
        it.bind("bare", one())
        await it.ready("probed", "bare")
        for name in ("probed", "bare"):
            it.annotate(name, ready="false")
        await it.until(lambda: not it.is_ready("probed") and not it.is_ready("bare"), "not ready")
        await it.until(lambda: "statuscode: 503" in it.events("probed").get("Unhealthy", ""), "Unhealthy")
        for name in ("probed", "bare"):
            it.annotate(name, ready=None)
        await it.ready("probed", "bare")
        assert it.container("probed")["restartCount"] == 0

    in_lab(check)


def test_liveness_failure_restarts_the_container() -> None:
    async def check(it: PodLab) -> None:
        it.in_force()
        it.bind("web", one(livenessProbe=http(failureThreshold=2)))
        it.bind("exec", one(livenessProbe={"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1}))
        await it.ready("web", "exec")
        for name in ("web", "exec"):
            it.annotate(name, alive="false")
        await it.until(lambda: it.container("web")["restartCount"] == 1, "restarted")
        await it.until(lambda: it.container("exec")["restartCount"] == 1, "restarted")
        assert it.container("web")["lastState"]["terminated"]["exitCode"] == 137
        await it.until(
            lambda: it.container("web")["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff",
            "restarted, and killed again",
        )
        events = it.events("web")
        assert events["Killing"] == "Container c failed liveness probe, will be restarted"
        assert "BackOff" in events
        assert "spec.containers[0].livenessProbe.exec" in it.events("exec")["NotEmulated"]

    in_lab(check)


def test_a_port_in_use_is_an_error_of_the_second_container() -> None:
    async def check(it: PodLab) -> None:
        it.in_force()
        same = [{"containerPort": 80}]
        it.bind("web", {"containers": [{"name": "a", "ports": same}, {"name": "b", "ports": same}]})
        await it.until(lambda: it.container("web", "b").get("lastState"), "b fails")
        state = it.container("web", "b")
        assert state["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        assert state["restartCount"] == 1
        assert state["lastState"]["terminated"]["message"] == "listen tcp :80: bind: address already in use"
        assert it.container("web", "a")["ready"]
        assert not it.is_ready("web")
        assert "address already in use" in it.events("web")["Failed"]

    in_lab(check)


def test_service_ports_come_and_go() -> None:
    async def check(it: PodLab) -> None:
        it.in_force()
        ip = it.bind("web", one(), labels={"app": "web"})["status"]["podIP"]
        await it.ready("web")
        with pytest.raises(ConnectionRefusedError):
            await exchange(it.node_netns, ip, 9090, b"x")
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "s", "namespace": "default"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 1, "targetPort": 9090}]},
        }
        it.client.create(service)

        async def is_open() -> bool:
            try:
                return await exchange(it.node_netns, ip, 9090, b"x") == b"x"
            except ConnectionRefusedError:
                return False

        async def is_closed() -> bool:
            return not await is_open()

        await it.until(is_open, "the Service's port is open")
        it.client.delete(SERVICES, "default", "s")
        await it.until(is_closed, "the Service's port is closed")
        assert await exchange(it.node_netns, ip, 80, b"x") == b"x"

    in_lab(check)


def test_init_containers_in_order_sidecars_and_jobs() -> None:
    async def check(it: PodLab) -> None:
        it.in_force()
        inits = [
            {"name": "i1"},
            {"name": "side", "restartPolicy": "Always", "ports": [{"containerPort": 81}], "startupProbe": http(81)},
            {"name": "i2"},
        ]
        pod = it.bind("init", {"initContainers": inits, **one()})
        await it.ready("init")
        assert [it.container("init", n)["state"]["terminated"]["exitCode"] for n in ("i1", "i2")] == [0, 0]
        assert it.container("init", "side")["ready"]
        assert await exchange(it.node_netns, pod["status"]["podIP"], 81, b"x") == b"x"

        meta = {"name": "j", "namespace": "default"}
        owner = owner_reference(it.client.create({"apiVersion": "batch/v1", "kind": "Job", "metadata": meta}))
        it.bind("job", {"restartPolicy": "Never", "initContainers": inits, **one()}, ownerReferences=[owner])
        it.bind("sleep", {"restartPolicy": "Never", **one()})
        begin = time.monotonic()
        it.bind("timed", {"restartPolicy": "Never", **one()}, annotations={"kmn.io/run-seconds": "0.5"})
        await it.until(lambda: it.pod("job")["status"]["phase"] == "Succeeded", "the Job's pod ends")
        assert it.container("job")["state"]["terminated"]["reason"] == "Completed"
        ready = condition(it.pod("job"), "Ready")
        assert ready is not None
        assert (ready["status"], ready["reason"]) == ("False", "PodCompleted")
        await it.until(lambda: it.pod("timed")["status"]["phase"] == "Succeeded", "the timed pod ends")
        assert time.monotonic() - begin > 0.5
        assert it.is_ready("sleep")

    in_lab(check)


def test_deletion_at_once_and_with_time_to_shut_down() -> None:
    async def check(it: PodLab) -> None:
        it.in_force()
        fast = it.bind("fast", one())
        slow = it.bind("slow", one(lifecycle={"preStop": {"sleep": {"seconds": 1}}}))
        bounded = it.bind("bounded", one(), annotations={"kmn.io/shutdown-seconds": "60"})
        await it.ready("fast", "slow", "bounded")
        for name, grace in (("fast", 30), ("slow", 30), ("bounded", 2)):
            it.client.delete(PODS, "default", name, grace_seconds=grace)
        await it.until(lambda: it.gone("fast", fast["metadata"]["uid"]), "fast is gone", 1)
        assert fast["metadata"]["uid"] not in it.plumber.attached
        assert it.pod("slow")["metadata"]["deletionTimestamp"]
        assert await exchange(it.node_netns, slow["status"]["podIP"], 80, b"x") == b"x"
        await it.until(lambda: it.gone("slow", slow["metadata"]["uid"]), "slow is gone", 3)
        await it.until(lambda: it.gone("bounded", bounded["metadata"]["uid"]), "bounded is gone", 3)
        assert it.plumber.attached == {}
        assert it.events("fast")["Killing"] == "Stopping container c"

    in_lab(check)


def test_a_pod_that_never_got_an_address_can_be_deleted() -> None:
    async def check(it: PodLab) -> None:
        meta = {"name": "web", "namespace": "default"}
        pod = it.client.create(
            {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {**one(), "nodeName": "n1"}}
        )
        it.client.delete(PODS, "default", "web", grace_seconds=30)
        await it.until(lambda: it.gone("web", pod["metadata"]["uid"]), "gone", 1)

    in_lab(check)


def test_a_pod_of_the_same_name_waits_for_the_namespace() -> None:
    async def check(it: PodLab) -> None:
        it.in_force()
        old = it.bind("web", one())
        await it.ready("web")
        it.client.delete(PODS, "default", "web", grace_seconds=0)
        new = it.bind("web", one())
        assert new["metadata"]["uid"] != old["metadata"]["uid"]
        await it.ready("web")
        assert list(it.plumber.attached) == [new["metadata"]["uid"]]
        assert await exchange(it.node_netns, new["status"]["podIP"], 80, b"x") == b"x"

    in_lab(check)


def test_host_network_pods_listen_on_the_node() -> None:
    async def check(it: PodLab) -> None:
        it.in_force()
        local = {**http(8080), "httpGet": {"port": 8080, "host": "127.0.0.1"}}
        it.bind("agent", {"hostNetwork": True, **one([{"containerPort": 8080}], readinessProbe=local)})
        await it.ready("agent")
        answer = json.loads(await run_in(it.node_netns, "curl", "-s", f"http://{NODE_ADDRESS}:8080/"))
        assert (answer["pod"], answer["node"]) == ("agent", "n1")
        # It does not say that it wants the port, or it would be refused: its program is to listen there by its probe.
        it.bind("second", {"hostNetwork": True, **one([{"containerPort": 8081}], readinessProbe=http(8080))})
        await it.until(lambda: "Failed" in it.events("second"), "the port is taken")

    in_lab(check)


def test_a_killed_runtime_comes_back_with_all_containers() -> None:
    async def check(it: PodLab) -> None:
        it.in_force()
        ips = [it.bind(f"p{n}", one(readinessProbe=http()))["status"]["podIP"] for n in range(3)]
        names = [f"p{n}" for n in range(3)]
        await it.ready(*names)
        it.end_runtime()
        await it.until(lambda: not any(it.is_ready(name) for name in names), "not ready")
        it.start_runtime()
        await it.ready(*names)
        assert [it.container(name)["restartCount"] for name in names] == [1, 1, 1]
        assert it.container("p0")["lastState"]["terminated"]["exitCode"] == 137
        for ip in ips:
            assert await exchange(it.node_netns, ip, 80, b"x") == b"x"

    in_lab(check)


def test_pods_of_a_node_that_is_not_ready() -> None:
    async def check(it: PodLab) -> None:
        it.in_force()
        it.bind("web", one())
        await it.ready("web")
        for status in ("False", "True"):
            node = it.client.get(NODES, "", "n1")
            it.client.update(
                {**node, "status": {"conditions": [{"type": "Ready", "status": status}]}}, subresource="status"
            )
            await it.until(lambda wanted=status == "True": it.is_ready("web") is wanted, f"Ready {status}")

    in_lab(check)


def test_a_device_that_cannot_be_made_is_said_and_tried_again() -> None:
    async def check(it: PodLab) -> None:
        it.in_force()
        it.plumber.refuse["default/web"] = "no room"
        it.bind("web", one())
        await it.until(lambda: "FailedCreatePodSandBox" in it.events("web"), "said")
        assert "no room" in it.events("web")["FailedCreatePodSandBox"]
        it.plumber.refuse.clear()
        await it.ready("web")

    in_lab(check)


def test_a_host_port_that_a_pod_of_the_node_has() -> None:
    """Bound past the scheduler: the second is refused, and may be deleted; a third comes when the first has gone."""

    async def check(it: PodLab) -> None:
        it.in_force()
        spec = one([{"containerPort": 80, "hostPort": 8080}])
        first = it.bind("first", spec)
        await it.ready("first")
        second = it.bind("second", spec)
        await it.until(lambda: it.pod("second")["status"]["phase"] == "Failed", "refused")
        status, why = it.pod("second")["status"], "node(s) didn't have free ports for the requested pod ports"
        assert status["reason"] == "NodePorts"
        assert status["message"] == f"Pod was rejected: Predicate NodePorts failed: {why}"
        assert "podIP" not in status
        assert it.events("second")["NodePorts"] == f"Predicate NodePorts failed: {why}"
        assert set(it.plumber.attached) == {first["metadata"]["uid"]}
        it.client.delete(PODS, "default", "second")
        await it.until(lambda: it.gone("second", second["metadata"]["uid"]), "the second gone")
        it.client.delete(PODS, "default", "first")
        await it.until(lambda: it.gone("first", first["metadata"]["uid"]), "the first gone")
        it.bind("third", spec)
        await it.ready("third")

    in_lab(check)


def test_a_host_port_of_a_pod_that_has_run_to_its_end() -> None:
    async def check(it: PodLab) -> None:
        it.in_force()
        spec = one([{"containerPort": 80, "hostPort": 8080}])
        it.bind("job", {**spec, "restartPolicy": "Never"}, annotations={"kmn.io/run-seconds": "0"})
        await it.until(lambda: it.pod("job")["status"]["phase"] == "Succeeded", "the end")
        it.bind("next", spec)
        await it.ready("next")

    in_lab(check)
