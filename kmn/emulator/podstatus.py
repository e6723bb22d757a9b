"""A pod's status as a function of the pod and of what has happened to its containers. No clock, no API, no kernel."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from kmn.emulator.containerports import is_sidecar
from kmn.k8s.objects import Object, condition, set_condition

__all__ = [
    "ContainerFacts",
    "PodFacts",
    "compute_status",
    "finished",
    "finished_by_others",
    "over",
    "qos_class",
    "restarts_after",
    "startable",
]


_TERMINAL = ("Succeeded", "Failed")  # phases


@dataclass(slots=True)
class ContainerFacts:
    """What has happened to one container of a pod. ``starting`` is waiting, for its user."""

    name: str
    state: Literal["waiting", "starting", "running", "terminated"] = "waiting"
    run: str = ""  # id of the present or last run
    waiting: tuple[str, str] = ("", "")  # reason and message, when there is a better one than ContainerCreating
    started_at: str = ""
    started: bool = False  # the startup probe has passed
    ready: bool = False
    terminated: dict[str, Any] = field(default_factory=dict)  # as in containerStatuses[].state
    last: dict[str, Any] = field(default_factory=dict)  # the end of the run before
    restarts: int = 0


@dataclass(slots=True)
class PodFacts:
    """What has happened to a pod."""

    start_time: str
    containers: dict[str, ContainerFacts]
    attached: bool = False
    node_ready: bool = True

    @classmethod
    def of(cls, pod: Object, start_time: str) -> PodFacts:
        """A pod of which nothing runs yet."""
        spec = pod["spec"]
        names = [c["name"] for c in (*(spec.get("initContainers") or ()), *spec["containers"])]
        return cls(start_time, {name: ContainerFacts(name) for name in names})


def restarts_after(pod: Object, container: Object, *, succeeded: bool) -> bool:
    """Whether a container that has ended runs again."""
    if is_sidecar(container):
        return True
    policy = pod["spec"].get("restartPolicy", "Always")
    if container in (pod["spec"].get("initContainers") or ()):
        return not succeeded and policy != "Never"
    return bool(policy == "Always" or (policy == "OnFailure" and not succeeded))


def startable(pod: Object, facts: PodFacts) -> list[Object]:
    """Containers whose turn it is: init containers one after the other, then all others together."""
    found = []
    for container in pod["spec"].get("initContainers") or ():
        state = facts.containers[container["name"]]
        if state.state == "waiting":
            found.append(container)
        done = state.started if is_sidecar(container) else _succeeded(state)
        if not done:
            return found
    return found + [c for c in pod["spec"]["containers"] if facts.containers[c["name"]].state == "waiting"]


def finished(pod: Object, facts: PodFacts) -> bool:
    """Whether the pod has run to its end: nothing of it will ever run again."""
    main = [facts.containers[c["name"]] for c in pod["spec"]["containers"]]
    if all(state.state == "terminated" for state in main):
        return bool(pod["spec"].get("restartPolicy", "Always") != "Always")
    inits = [c for c in pod["spec"].get("initContainers") or () if not is_sidecar(c)]
    states = [facts.containers[c["name"]] for c in inits]
    return any(state.state == "terminated" and not _succeeded(state) for state in states)


def over(pod: Object) -> bool:
    """Whether the pod is over by its phase, whoever wrote that: no pod comes back from there."""
    return (pod.get("status") or {}).get("phase") in _TERMINAL


def finished_by_others(pod: Object, facts: PodFacts) -> bool:
    """Whether the pod is over by its phase and not by its containers: somebody else wrote the phase."""
    return over(pod) and not finished(pod, facts)


def compute_status(pod: Object, facts: PodFacts, now: str) -> dict[str, Any]:
    """``status`` of a pod. Addresses and conditions that others write stay as they are in ``pod``."""
    spec = pod["spec"]
    status = dict(pod.get("status") or {})
    inits = spec.get("initContainers") or []
    if not over(pod):
        status["phase"] = _phase(pod, facts)
    status["startTime"] = facts.start_time
    status["qosClass"] = status.get("qosClass") or qos_class(pod)
    if inits:
        status["initContainerStatuses"] = [_container_status(c, facts, initializing=True) for c in inits]
    initialized = _initialized(pod, facts)
    status["containerStatuses"] = [
        _container_status(c, facts, initializing=not initialized) for c in spec["containers"]
    ]
    status["conditions"] = [dict(c) for c in status.get("conditions") or ()]
    _set_conditions(pod, {"status": status}, facts, status["phase"], now)
    return status


def _succeeded(state: ContainerFacts) -> bool:
    return state.state == "terminated" and state.terminated.get("exitCode") == 0


def _initialized(pod: Object, facts: PodFacts) -> bool:
    return all(
        facts.containers[c["name"]].started if is_sidecar(c) else _succeeded(facts.containers[c["name"]])
        for c in pod["spec"].get("initContainers") or ()
    )


def _phase(pod: Object, facts: PodFacts) -> str:
    main = [facts.containers[c["name"]] for c in pod["spec"]["containers"]]
    if finished(pod, facts):
        return "Succeeded" if all(_succeeded(state) for state in main) else "Failed"
    if any(state.run and state.state != "starting" for state in main) or any(state.last for state in main):
        return "Running"
    return "Pending"


def _container_status(container: Object, facts: PodFacts, *, initializing: bool) -> dict[str, Any]:
    state = facts.containers[container["name"]]
    now: dict[str, Any]
    match state.state:
        case "running":
            now = {"running": {"startedAt": state.started_at}}
        case "terminated":
            now = {"terminated": state.terminated}
        case _:
            reason, message = state.waiting
            waits = reason or ("PodInitializing" if initializing else "ContainerCreating")
            now = {"waiting": {"reason": waits, **({"message": message} if message else {})}}
    regular_init = initializing and not is_sidecar(container)
    result: dict[str, Any] = {
        "name": container["name"],
        "image": container.get("image", ""),
        "imageID": "",
        "ready": state.ready or (regular_init and _succeeded(state)),
        "started": state.state == "running" and state.started,
        "restartCount": state.restarts,
        "state": now,
        "lastState": {"terminated": state.last} if state.last else {},
    }
    if state.run and state.state != "starting":
        result["containerID"] = f"kmn://{state.run}"
    return result


def _set_conditions(pod: Object, draft: Object, facts: PodFacts, phase: str, now: str) -> None:
    def put(kind: str, unmet: tuple[str, str] | None) -> None:
        reason, message = unmet or ("", "")
        set_condition(draft, kind, unmet is None, reason, message, at=now)

    ended = ("PodCompleted", "") if phase == "Succeeded" else ("PodFailed", "") if phase == "Failed" else None
    inits = _names(c for c in pod["spec"].get("initContainers") or () if not _init_done(c, facts))
    unready = _names(c for c in _long_running(pod) if not facts.containers[c["name"]].ready)
    containers = ended
    if not ended and unready:
        containers = ("ContainersNotReady", f"containers with unready status: [{unready}]")
    ready = containers or _gates(pod, draft)
    if not ready and not facts.node_ready:
        ready = ("NodeNotReady", f"Node {pod['spec'].get('nodeName')} is not ready")
    put("PodReadyToStartContainers", None if facts.attached else ("", ""))
    if phase == "Succeeded":
        set_condition(draft, "Initialized", True, "PodCompleted", at=now)
    else:
        unmet = f"containers with incomplete status: [{inits}]"
        put("Initialized", ("ContainersNotInitialized", unmet) if inits else None)
    put("Ready", ready)
    put("ContainersReady", containers)


def _names(containers: Iterable[Object]) -> str:
    return " ".join(c["name"] for c in containers)


def _init_done(container: Object, facts: PodFacts) -> bool:
    state = facts.containers[container["name"]]
    return state.started if is_sidecar(container) else _succeeded(state)


def _long_running(pod: Object) -> list[Object]:
    return [c for c in pod["spec"].get("initContainers") or () if is_sidecar(c)] + list(pod["spec"]["containers"])


def _gates(pod: Object, draft: Object) -> tuple[str, str] | None:
    """The first readiness gate whose condition somebody has yet to set to True."""
    for gate in pod["spec"].get("readinessGates") or ():
        kind = gate["conditionType"]
        found = condition(draft, kind)
        if found is None:
            return "ReadinessGatesNotReady", f'corresponding condition of pod readiness gate "{kind}" does not exist.'
        if found["status"] != "True":
            text = f'the status of pod readiness gate "{kind}" is not "True", but {found["status"]}'
            return "ReadinessGatesNotReady", text
    return None


def qos_class(pod: Object) -> str:
    """Guaranteed, Burstable or BestEffort, by the requests and limits of all containers."""
    limited, any_set = True, False
    for container in (*(pod["spec"].get("initContainers") or ()), *pod["spec"]["containers"]):
        resources = container.get("resources") or {}
        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        for name in ("cpu", "memory"):
            limit, request = limits.get(name), requests.get(name, limits.get(name))
            any_set |= bool(limit or request)
            limited &= bool(limit) and str(limit) == str(request)
    if not any_set:
        return "BestEffort"
    return "Guaranteed" if limited else "Burstable"
