"""Readiness as a function of a snapshot: what is missing, and the reason that people are told."""

from __future__ import annotations

from typing import Any

import pytest

from kmn.k8s.client import Listing
from kmn.k8s.dataplane import OBSERVED_RESOURCES
from kmn.ready import Problem, Snapshot, problems, remarks

OBSERVED = dict.fromkeys(OBSERVED_RESOURCES, "5")


def ready(status: bool = True, **fields: str) -> dict[str, Any]:
    return {"type": "Ready", "status": "True" if status else "False", **fields}


NODE: dict[str, Any] = {"kind": "Node", "metadata": {"name": "n1"}, "status": {"conditions": [ready()]}}


def pod(name: str = "web-1", **status: Any) -> dict[str, Any]:
    fields = {"phase": "Running", "podIP": "10.244.0.2", "conditions": [ready()], **status}
    metadata = {"name": name, "namespace": "default", "uid": f"uid-{name}", "labels": {"app": "web"}}
    return {"kind": "Pod", "metadata": metadata, "spec": {}, "status": fields}


def service(**spec: Any) -> dict[str, Any]:
    fields = {"selector": {"app": "web"}, **spec}
    return {"kind": "Service", "metadata": {"name": "web", "namespace": "default", "uid": "s"}, "spec": fields}


def endpoints(*addresses: str) -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": "web"}
    return {
        "kind": "EndpointSlice",
        "metadata": {"name": "web-x", "namespace": "default", "labels": labels},
        "endpoints": [{"addresses": [a], "conditions": {"ready": True}} for a in addresses],
    }


def workload(kind: str, spec: dict[str, Any], status: dict[str, Any], generation: int = 1) -> dict[str, Any]:
    metadata = {"name": "web", "namespace": "default", "uid": "uid-web", "generation": generation}
    return {"kind": kind, "metadata": metadata, "spec": spec, "status": {"observedGeneration": 1, **status}}


def warning(uid: str, reason: str, message: str) -> dict[str, Any]:
    return {"type": "Warning", "involvedObject": {"uid": uid}, "reason": reason, "message": message}


def judge(observed: dict[str, str] | None = None, events: tuple[Any, ...] = (), **lists: list[Any]) -> list[Problem]:
    full = {**{plural: [] for plural in OBSERVED_RESOURCES}, "nodes": [NODE], **lists}
    listings = {plural: Listing(items, "5") for plural, items in full.items()}
    return problems(Snapshot(listings, OBSERVED if observed is None else observed, events))


@pytest.mark.parametrize(
    "lists",
    [
        pytest.param({}, id="empty cluster"),
        pytest.param({"pods": [pod()]}, id="ready pod"),
        pytest.param({"pods": [pod(phase="Succeeded", conditions=[ready(False)])]}, id="pod that has done its work"),
        pytest.param(
            {"pods": [pod()], "services": [service()], "endpointslices": [endpoints("10.244.0.2")]}, id="served"
        ),
        pytest.param({"services": [service()]}, id="Service that selects nothing"),
        pytest.param({"pods": [pod()], "services": [service(type="ExternalName")]}, id="ExternalName"),
        pytest.param({"deployments": [workload("Deployment", {"replicas": 0}, {})]}, id="scaled to nothing"),
        pytest.param({"daemonsets": [workload("DaemonSet", {}, {})]}, id="DaemonSet without a fitting node"),
        pytest.param(
            {"jobs": [workload("Job", {"completions": 3}, {"succeeded": 3, "conditions": [
                {"type": "Complete", "status": "True"}]})]},
            id="Job that is done",
        ),
    ],
)  # fmt: skip
def test_ready(lists: dict[str, list[Any]]) -> None:
    assert judge(**lists) == []


@pytest.mark.parametrize(
    ("lists", "what", "reason", "message"),
    [
        ({"nodes": []}, "nodes", "NoNodes", "no node"),
        (
            {"nodes": [{**NODE, "status": {"conditions": [ready(False, reason="Building", message="no bridge")]}}]},
            "node n1",
            "Building",
            "no bridge",
        ),
        (
            {"pods": [pod(phase="Pending", conditions=[
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes fit"}])]},
            "pod default/web-1", "Unschedulable", "0/1 nodes fit",
        ),
        (
            {"pods": [pod(conditions=[ready(False)], containerStatuses=[{"name": "c", "restartCount": 3, "state": {
                "waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}}])]},
            "pod default/web-1", "CrashLoopBackOff", "container c: back-off 10s",
        ),
        ({"pods": [pod(phase="Pending", conditions=[])]}, "pod default/web-1", "Pending", "has not been started yet"),
        (
            {"deployments": [workload("Deployment", {"replicas": 2}, {"replicas": 1})]},
            "deployment default/web", "MissingPods", "1 of 2 pods",
        ),
        (
            {"statefulsets": [workload("StatefulSet", {"replicas": 1}, {"replicas": 1}, generation=2)]},
            "statefulset default/web", "NotObserved", "last change",
        ),
        (
            {"deployments": [workload("Deployment", {"replicas": 1}, {"replicas": 2, "updatedReplicas": 1})]},
            "deployment default/web", "RollingOut", "1 of 2",
        ),
        (
            {"pods": [pod()], "services": [service()], "endpointslices": [endpoints("10.244.0.9")]},
            "service default/web", "EndpointsBehind", "web-1",
        ),
        (
            {"pods": [pod()], "services": [service(ports=[{"name": "renamed", "port": 80}])],
             "endpointslices": [endpoints("10.244.0.2")]},
            "service default/web", "EndpointsBehind", "web-1",
        ),
    ],
)  # fmt: skip
def test_not_ready(lists: dict[str, list[Any]], what: str, reason: str, message: str) -> None:
    (problem,) = judge(**lists)
    assert (problem.what, problem.reason) == (what, reason)
    assert message in problem.message


def test_the_data_plane_has_to_have_caught_up_with_each_list() -> None:
    (problem,) = judge({**OBSERVED, "pods": "4"})
    assert problem == Problem("data plane: pods", "NotProgrammed", "at version 4, wanted 5")
    assert len(judge({})) == len(OBSERVED)


def test_the_last_warning_tells_why() -> None:
    quota = warning("uid-web", "FailedCreate", "namespace is terminating")
    (problem,) = judge(events=(quota,), replicasets=[workload("ReplicaSet", {"replicas": 1}, {})])
    assert (problem.reason, problem.message) == ("FailedCreate", "namespace is terminating")
    probe = warning("uid-web-1", "Unhealthy", "Readiness probe failed: 503")
    unready = pod(conditions=[ready(False, reason="ContainersNotReady")])
    (problem,) = judge(events=(probe,), pods=[unready])
    assert problem.message == "Readiness probe failed: 503"


def test_progress_counts_pods_that_are_still_to_come() -> None:
    lists = {
        "nodes": [NODE],
        "pods": [pod()],
        "deployments": [workload("Deployment", {"replicas": 3}, {"replicas": 1})],
    }
    snapshot = Snapshot({plural: Listing(items, "5") for plural, items in lists.items()}, OBSERVED)
    assert [(p.what, p.done, p.total) for p in snapshot.progress()][:2] == [("nodes", 1, 1), ("pods", 1, 3)]


def test_a_restarted_container_tells_what_it_died_of() -> None:
    died = {"terminated": {"exitCode": 1, "message": "listen tcp :80: bind: address already in use"}}
    state = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
    statuses = [{"name": "c", "restartCount": 3, "state": state, "lastState": died}]
    (problem,) = judge(pods=[pod(conditions=[ready(False)], containerStatuses=statuses)])
    assert problem.message == "container c: listen tcp :80: bind: address already in use (back-off 10s)"


def test_objects_that_the_data_plane_ignores() -> None:
    listings = {plural: Listing([NODE] if plural == "nodes" else [], "5") for plural in OBSERVED}
    (problem,) = problems(Snapshot(listings, OBSERVED, ignored=("Pod default/a: no address",)))
    assert problem == Problem("data plane", "Ignored", "Pod default/a: no address")


def test_bridges_that_are_not_programmed() -> None:
    listings = {plural: Listing([NODE] if plural == "nodes" else [], "5") for plural in OBSERVED}
    (problem,) = problems(Snapshot(listings, OBSERVED, disconnected=("n1",)))
    assert (problem.what, problem.reason) == ("data plane: n1", "NotConnected")


# --- Ingresses --------------------------------------------------------------------------------------------------------

OWN_CLASS = {"kind": "IngressClass", "metadata": {"name": "own"}, "spec": {"controller": "example.com/own"}}


def ingress(name: str | None, *addresses: str) -> dict[str, Any]:
    spec = {"ingressClassName": name} if name else {}
    status = {"loadBalancer": {"ingress": [{"ip": address} for address in addresses]}}
    return {"kind": "Ingress", "metadata": {"name": "shop", "namespace": "default"}, "spec": spec, "status": status}


def of_ingress(
    obj: dict[str, Any], classes: tuple[dict[str, Any], ...] = (), controllers: tuple[str, ...] | None = None
) -> tuple[list[str], list[str]]:
    """Reasons to wait, and remarks, with the controllers that the cluster file declares (None: nothing about them)."""
    declared = {"ingress": {"controllers": [{"name": c, "controller": c} for c in controllers or ()]}}
    cluster = {"kind": "Cluster", "metadata": {"name": "c"}, "spec": {} if controllers is None else declared}
    full = {plural: [] for plural in OBSERVED_RESOURCES} | {
        "nodes": [NODE], "clusters": [cluster], "ingressclasses": list(classes), "ingresses": [obj],
    }  # fmt: skip
    snapshot = Snapshot({plural: Listing(items, "5") for plural, items in full.items()}, OBSERVED)
    told = [problem.reason for problem in problems(snapshot)], [problem.reason for problem in remarks(snapshot)]
    assert all(problem.what == "ingress default/shop" for problem in (*problems(snapshot), *remarks(snapshot)))
    return told


def test_an_ingress_is_ready_with_an_address() -> None:
    assert of_ingress(ingress("nginx", "192.0.2.1")) == ([], [])
    assert of_ingress(ingress("own"), (OWN_CLASS,), ("example.com/own",)) == (["NoAddress"], [])
    assert of_ingress(ingress("own", "192.0.2.1"), (OWN_CLASS,), ("example.com/own",)) == ([], [])


def test_a_controller_that_comes_on_demand_is_waited_for_before_its_class_is_there() -> None:
    assert of_ingress(ingress("nginx")) == (["NoAddress"], [])
    assert of_ingress(ingress("nginx"), controllers=()) == ([], ["NoController"])  # the cluster file says none


def test_an_ingress_that_no_controller_takes_is_remarked_and_not_waited_for() -> None:
    assert of_ingress(ingress(None)) == ([], ["NoController"])
    assert of_ingress(ingress("unknown")) == ([], ["NoController"])
    assert of_ingress(ingress("own"), (OWN_CLASS,)) == ([], ["NoController"])
    with_annotation = ingress(None)
    with_annotation["metadata"]["annotations"] = {"kubernetes.io/ingress.class": "nginx"}
    assert of_ingress(with_annotation) == (["NoAddress"], [])
