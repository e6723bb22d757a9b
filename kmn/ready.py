"""Whether a cluster has become what its objects ask for, and if not, what is missing and why. Pure functions on a
snapshot of the API, and the loop that takes snapshots until all is well or time is up.

Ready means: every workload has the pods that it wants, every pod is ready (or has done its work), every ready pod is
an endpoint of the Services that select it, every Ingress has the address of its controller, and the data plane has in
force what the objects say. What no waiting will bring is no reason to wait; it is remarked.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kmn.errors import UserError
from kmn.ingress.classes import class_of
from kmn.k8s.client import Client, Listing
from kmn.k8s.dataplane import DATAPLANE_NAME, INGRESS_CONTROLLERS, OBSERVED_RESOURCES
from kmn.k8s.errors import NotFound
from kmn.k8s.families import FAMILIES, family_of, pod_ips
from kmn.k8s.objects import Object, condition, controller_of, labels, name_of, namespace_of, uid_of
from kmn.k8s.resources import (
    APPLICATIONLOADBALANCERS,
    CLUSTERS,
    DAEMONSETS,
    DATAPLANES,
    DEPLOYMENTS,
    EDGES,
    ENDPOINTSLICES,
    EVENTS,
    INGRESSCLASSES,
    INGRESSES,
    JOBS,
    NAMESPACES,
    NODES,
    PODS,
    POLICIES,
    REPLICASETS,
    REPLICATIONCONTROLLERS,
    SERVICES,
    STATEFULSETS,
    Resource,
)

__all__ = ["NotReady", "Problem", "Progress", "Snapshot", "problems", "remarks", "take", "wait_ready"]

_WORKLOADS = (DEPLOYMENTS, STATEFULSETS, DAEMONSETS, JOBS, REPLICASETS, REPLICATIONCONTROLLERS)
_INGRESS = (CLUSTERS, INGRESSCLASSES, INGRESSES)  # what tells which controllers there are, and whom they serve
_ON_DEMAND = set(INGRESS_CONTROLLERS.values())  # there when an object asks, unless the cluster file says which
_OBSERVED: dict[str, Resource] = {
    r.plural: r for r in (NODES, PODS, SERVICES, ENDPOINTSLICES, EDGES, APPLICATIONLOADBALANCERS, *POLICIES, NAMESPACES)
}
assert set(OBSERVED_RESOURCES) == set(_OBSERVED)

_SHORTEST_PAUSE = 0.02  # seconds between snapshots
_PAUSE_RATIO = 6  # a snapshot takes the server's time: pause that many times as long as the last one took


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not ready: ``pod default/web-1``, ``CrashLoopBackOff``, and why."""

    what: str
    reason: str
    message: str


class NotReady(UserError):
    """Time was up. ``problems`` says what is missing."""

    def __init__(self, missing: list[Problem], seconds: float) -> None:
        shown = "; ".join(f"{p.what}: {p.reason}: {p.message}" for p in missing[:5])
        more = f"; and {len(missing) - 5} more" if len(missing) > 5 else ""
        super().__init__(f"not ready after {seconds:.0f} s: {shown}{more}")
        self.problems = missing


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the cluster is: ``what`` is ``nodes``, ``pods`` or ``data plane``."""

    what: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The lists that readiness is judged by."""

    lists: Mapping[str, Listing]  # by plural
    observed: Mapping[str, str] = field(default_factory=dict)  # DataPlane status.observed
    events: tuple[Object, ...] = ()
    ignored: tuple[str, ...] = ()  # DataPlane status.problems
    disconnected: tuple[str, ...] = ()  # nodes and edges whose bridges the controller does not program now

    def items(self, resource: Resource) -> list[Object]:
        return self.lists[resource.plural].items if resource.plural in self.lists else []

    def progress(self) -> list[Progress]:
        nodes, pods = self.items(NODES), self.items(PODS)
        wanted = len(pods) + sum(max(0, missing) for _, missing in map(_missing_pods, self._top_workloads()))
        return [
            Progress("nodes", sum(map(_is_ready, nodes)), len(nodes)),
            Progress("pods", sum(map(_pod_done, pods)), wanted),
            Progress("data plane", sum(self._in_force(plural) for plural in _OBSERVED), len(_OBSERVED)),
        ]

    def _in_force(self, plural: str) -> bool:
        listing = self.lists.get(plural)
        return listing is not None and int(self.observed.get(plural, "-1")) >= int(listing.resource_version)

    def _top_workloads(self) -> list[Object]:
        """Workloads that no other workload manages."""
        return [w for resource in _WORKLOADS for w in self.items(resource) if controller_of(w) is None]

    def _ingresses(self, *, taken: bool) -> list[Object]:
        """Ingresses without an address: those whose class has a controller, or those that nobody takes."""
        controllers: set[str] = set()
        for cluster in self.items(CLUSTERS):
            declared = cluster["spec"].get("ingress")
            controllers |= {c["controller"] for c in declared["controllers"]} if declared else _ON_DEMAND
        classes = {name_of(found): found["spec"].get("controller") for found in self.items(INGRESSCLASSES)}
        return [
            ingress
            for ingress in self.items(INGRESSES)
            if not ((ingress.get("status") or {}).get("loadBalancer") or {}).get("ingress")
            and (_controller_of_class(class_of(ingress), classes) in controllers) is taken
        ]


def problems(snapshot: Snapshot) -> list[Problem]:
    """Everything that is not ready. Empty: the cluster is up."""
    found = [_node_problem(node) for node in snapshot.items(NODES) if not _is_ready(node)]
    if not snapshot.items(NODES):
        found.append(Problem("nodes", "NoNodes", "the cluster has no node yet"))
    warnings = _last_warnings(snapshot.events)
    pods = snapshot.items(PODS)
    found += [_pod_problem(pod, warnings) for pod in pods if not _pod_done(pod)]
    for workload in snapshot._top_workloads():
        problem = _workload_problem(workload, warnings)
        if problem is not None:
            found.append(problem)
    found += _endpoint_problems(snapshot.items(SERVICES), pods, snapshot.items(ENDPOINTSLICES))
    found += [
        Problem(_ingress(ingress), "NoAddress", "its controller has not given it an address yet")
        for ingress in snapshot._ingresses(taken=True)
    ]
    for plural in _OBSERVED:
        if not snapshot._in_force(plural):
            at, want = snapshot.observed.get(plural, "nothing"), snapshot.lists[plural].resource_version
            found.append(Problem(f"data plane: {plural}", "NotProgrammed", f"at version {at}, wanted {want}"))
    for name in snapshot.disconnected:
        found.append(Problem(f"data plane: {name}", "NotConnected", "its bridge and the controller are not in step"))
    return found + [Problem("data plane", "Ignored", text) for text in snapshot.ignored]


def remarks(snapshot: Snapshot) -> list[Problem]:
    """What is not waited for, as it will not come by itself: addresses of Ingresses that no controller takes."""
    return [
        Problem(_ingress(ingress), "NoController", f"{_class(ingress)}: it has no address, and is not waited for")
        for ingress in snapshot._ingresses(taken=False)
    ]


def wait_ready(
    client: Client, timeout: float, on_progress: Callable[[Iterable[Progress]], None] | None = None
) -> Snapshot:
    """Take snapshots until nothing is missing. Raises NotReady when time is up."""
    begin = time.monotonic()
    while True:
        at = time.monotonic()
        snapshot = take(client)
        missing = problems(snapshot)
        if on_progress is not None:
            on_progress(snapshot.progress())
        if not missing:
            return snapshot
        took = time.monotonic() - at
        if at - begin > timeout:
            events = tuple(client.list(EVENTS).items)
            raise NotReady(problems(replace(snapshot, events=events)), timeout)
        time.sleep(max(_SHORTEST_PAUSE, min(_PAUSE_RATIO * took, begin + timeout - time.monotonic())))


def take(client: Client) -> Snapshot:
    """The small lists first: as long as they tell that something is missing, a large one is read for progress only."""
    lists = {resource.plural: client.list(resource) for resource in (*_WORKLOADS, *_INGRESS, *_OBSERVED.values())}
    try:
        status = client.get(DATAPLANES, "", DATAPLANE_NAME).get("status") or {}
    except NotFound:
        status = {}
    disconnected = tuple(bridge["name"] for bridge in status.get("nodes") or () if not bridge["connected"])
    ignored = tuple(status.get("problems") or ())
    return Snapshot(lists, status.get("observed") or {}, ignored=ignored, disconnected=disconnected)


def _is_ready(obj: Object) -> bool:
    ready = condition(obj, "Ready")
    return ready is not None and ready["status"] == "True"


def _phase(pod: Object) -> str:
    return (pod.get("status") or {}).get("phase", "Pending")  # type: ignore[no-any-return]


def _pod_done(pod: Object) -> bool:
    """Ready, or finished: with success, or with the failure that its Job counts and replaces."""
    owner = controller_of(pod)
    finished = ("Succeeded", "Failed") if owner is not None and owner["kind"] == "Job" else ("Succeeded",)
    return (_is_ready(pod) or _phase(pod) in finished) and "deletionTimestamp" not in pod["metadata"]


def _node_problem(node: Object) -> Problem:
    ready = condition(node, "Ready") or {}
    return Problem(f"node {name_of(node)}", ready.get("reason", "NotReady"), ready.get("message", "not built yet"))


def _pod_problem(pod: Object, warnings: Mapping[str, Object]) -> Problem:
    """Why a pod is not ready: what its containers wait for, else its conditions, else the last warning about it."""
    what = f"pod {namespace_of(pod)}/{name_of(pod)}"
    if "deletionTimestamp" in pod["metadata"]:
        return Problem(what, "Terminating", "waits for its end")
    status = pod.get("status") or {}
    warning = warnings.get(uid_of(pod))
    detail: str = (warning or {}).get("message", "")
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        state = container.get("state") or {}
        waiting = state.get("waiting") or {}
        if waiting.get("reason", "PodInitializing") not in ("ContainerCreating", "PodInitializing"):
            message = waiting.get("message") or detail or f"restarted {container.get('restartCount', 0)} times"
            last = (container.get("lastState") or {}).get("terminated") or {}
            if last.get("message"):
                message = f"{last['message']} ({message})"
            return Problem(what, waiting["reason"], f"container {container['name']}: {message}")
        ended = state.get("terminated") or {}
        if ended and ended.get("exitCode"):
            message = ended.get("message") or detail or f"exit code {ended['exitCode']}"
            return Problem(what, ended.get("reason", "Error"), f"container {container['name']}: {message}")
    if status.get("reason"):
        return Problem(what, status["reason"], status.get("message", detail))
    for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready"):
        found = condition(pod, kind)
        if found is not None and found["status"] != "True":
            reason = found.get("reason") or f"Not{kind}"
            return Problem(what, reason, found.get("message") or detail or f"condition {kind} is {found['status']}")
    return Problem(what, (warning or {}).get("reason") or _phase(pod), detail or "has not been started yet")


def _missing_pods(workload: Object) -> tuple[str, int]:
    """In words how many pods a workload has and wants, and how many it lacks."""
    spec, status = workload.get("spec") or {}, workload.get("status") or {}
    kind = workload["kind"]
    if kind == "DaemonSet":
        want, have = status.get("desiredNumberScheduled", 0), status.get("currentNumberScheduled", 0)
    elif kind == "Job":
        want = min(spec.get("parallelism", 1), spec.get("completions") or spec.get("parallelism", 1))
        have = sum(status.get(part, 0) for part in ("active", "succeeded", "failed"))
    else:
        want, have = spec.get("replicas", 1), status.get("replicas", 0)
    return f"{have} of {want} pods", want - have


def _workload_problem(workload: Object, warnings: Mapping[str, Object]) -> Problem | None:
    """A workload whose controller has not seen its last change, or that lacks pods. (Pods speak for themselves.)"""
    spec, status = workload.get("spec") or {}, workload.get("status") or {}
    what = f"{workload['kind'].lower()} {namespace_of(workload)}/{name_of(workload)}"
    if workload["kind"] != "Job" and status.get("observedGeneration", 0) < workload["metadata"].get("generation", 0):
        return Problem(what, "NotObserved", "its last change has not been worked on yet")
    if workload["kind"] == "Job" and (spec.get("suspend") or (condition(workload, "Complete") or {}).get("status")):
        return None
    text, lacking = _missing_pods(workload)
    warning = warnings.get(uid_of(workload)) or {}
    if lacking > 0:
        return Problem(what, warning.get("reason", "MissingPods"), warning.get("message") or f"has {text}")
    updated, total = status.get("updatedReplicas", 0), status.get("replicas", 0)
    if workload["kind"] == "Deployment" and (lacking < 0 or updated != total):
        return Problem(what, "RollingOut", f"{updated} of {total} pods are of the new version")
    return None


_Port = tuple[str, str]  # name and protocol


def _port(port: dict[str, Any]) -> _Port:
    return port.get("name") or "", port.get("protocol") or "TCP"


def _endpoint_problems(services: list[Object], pods: list[Object], slices: list[Object]) -> list[Problem]:
    """Ready pods that a Service selects and that are not among its endpoints yet, or not with all its ports."""
    serving: dict[tuple[str, str], dict[str, set[_Port]]] = defaultdict(lambda: defaultdict(set))
    for endpoint_slice in slices:
        of_service = serving[namespace_of(endpoint_slice), labels(endpoint_slice).get("kubernetes.io/service-name", "")]
        ports = {_port(port) for port in endpoint_slice.get("ports") or ()}
        for endpoint in endpoint_slice.get("endpoints") or ():
            if (endpoint.get("conditions") or {}).get("ready", True):
                for address in endpoint["addresses"]:
                    of_service[address] |= ports
    by_label: dict[tuple[str, str, str], list[Object]] = defaultdict(list)
    for pod in pods:
        if _is_ready(pod) and "deletionTimestamp" not in pod["metadata"]:
            for key, value in labels(pod).items():
                by_label[namespace_of(pod), key, value].append(pod)
    found = []
    for service in services:
        selector: dict[str, Any] = (service.get("spec") or {}).get("selector") or {}
        if not selector or service["spec"].get("type") == "ExternalName":
            continue
        namespace = namespace_of(service)
        candidates = min((by_label[namespace, key, value] for key, value in selector.items()), key=len)
        have = serving[namespace, name_of(service)]
        # A pod may lack a port that is called by name; a number is there in any case.
        wanted = {
            _port(port) for port in service["spec"].get("ports") or () if not isinstance(port.get("targetPort"), str)
        }
        families = service["spec"].get("ipFamilies") or FAMILIES[:1]
        missing = [
            name_of(pod)
            for pod in candidates
            if selector.items() <= labels(pod).items()
            and any(family_of(ip) in families and not (ip in have and wanted <= have[ip]) for ip in pod_ips(pod))
        ]
        if missing:
            found.append(Problem(f"service {namespace}/{name_of(service)}", "EndpointsBehind",
                                 f"{len(missing)} ready pods are no endpoints yet, such as {missing[0]}"))  # fmt: skip
    return found


def _controller_of_class(name: str | None, classes: Mapping[str, str | None]) -> str | None:
    """A class that its users know by name comes with its controller: it may not be there yet."""
    return (classes.get(name) or INGRESS_CONTROLLERS.get(name)) if name else None


def _ingress(ingress: Object) -> str:
    return f"ingress {namespace_of(ingress)}/{name_of(ingress)}"


def _class(ingress: Object) -> str:
    """What is the matter with its class."""
    name = class_of(ingress)
    return f"no controller takes class {name}" if name else "it names no class"


def _last_warnings(events: Iterable[Object]) -> dict[str, Object]:
    """The last event of type Warning about each object, by uid."""
    found: dict[str, Object] = {}
    for event in sorted(events, key=lambda e: e.get("lastTimestamp") or e.get("eventTime") or ""):
        if event.get("type") == "Warning":
            found[event["involvedObject"].get("uid", "")] = event
    return found
