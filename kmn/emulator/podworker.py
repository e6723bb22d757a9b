"""One pod on its node: starts its containers, restarts them, probes them, and ends them. The kubelet has one a pod.

It is told what happens and says what is to be done; it waits for nothing. What is worked out from the facts that it
keeps (whose turn it is, the status) is in ``podstatus``.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Protocol

from kmn.emulator.containerports import is_sidecar, port_sets
from kmn.emulator.model import PodPort
from kmn.emulator.podenv import ConfigError, Environment
from kmn.emulator.podprobes import check_of, not_emulated, probe_of, sctp_ports, seconds_of
from kmn.emulator.podstatus import (
    ContainerFacts,
    PodFacts,
    finished,
    finished_by_others,
    restarts_after,
    startable,
)
from kmn.emulator.runtime.protocol import Container, Health, Port, Ports, Probe, ProbeKind
from kmn.k8s.dataplane import NETNS
from kmn.k8s.events import EventType
from kmn.k8s.objects import Object, annotation, controller_of, key_of, name_of, namespace_of, now, uid_of

__all__ = ["Desk", "PodWorker"]

# As the kubelet has it: the first restart is at once, then the pause doubles; ten good minutes and it starts over.
_BACKOFF_FIRST = 10.0
_BACKOFF_LIMIT = 300.0
_BACKOFF_RESET = 600.0
# A status that says "running, not ready" waits so long for the first probe to say better.
_FIRST_RESULT = 0.5
_CONFIG_ERROR = "CreateContainerConfigError"


class Desk(Protocol):
    """What a worker asks of its kubelet."""

    initial_delay: float | None

    @property
    def runtime_connected(self) -> bool:
        """Whether there is a runtime to start containers."""

    def send(self, op: str, item: Any) -> None:
        """Tell the runtime."""

    def event(self, worker: PodWorker, type: EventType, reason: str, message: str) -> None:
        """Write an Event about the pod."""

    def changed(self, worker: PodWorker) -> None:
        """The pod's status has to be looked at."""

    def services_of(self, pod: Object) -> list[Object]:
        """Services that select a pod."""

    def environment(self, pod: Object, container: Object) -> Environment:
        """Its variables, at this moment. Raises ConfigError."""

    def leave_environment(self, worker: PodWorker) -> None:
        """The environment of a container has changed: keep it for programs that are run in the pod."""

    def node_netns(self, node: str) -> str:
        """Name of a node's namespace: where probes come from."""

    def has_sctp(self) -> bool:
        """Whether the runtime can open SCTP ports."""

    def tear_down(self, worker: PodWorker) -> None:
        """Nothing of the pod runs any more: remove its device (and the pod, if it is being deleted)."""


class PodWorker:
    """``facts`` and ``in_force`` are the kubelet's to change as well; ``advance`` has to be called then."""

    def __init__(self, pod: Object, desk: Desk) -> None:
        self.pod = pod
        self.uid = uid_of(pod)
        self.key = key_of(pod)
        self.node: str = pod["spec"]["nodeName"]
        self.netns = annotation(pod, NETNS) or ""
        self.host_network = bool(pod["spec"].get("hostNetwork"))
        self.facts = PodFacts.of(pod, now())
        self.in_force = False  # the flows of its address are
        self.ending = False  # told to stop; containers may serve until their time is up
        self.ended = False  # nothing runs, nothing will
        self.port: PodPort | None = None  # its device, unless it lives in its node's namespace
        self.environment: dict[str, dict[str, str]] = {}  # variables by container, as of its last start
        self.quiet_until = 0.0  # loop time until which a first probe's result may come
        self._desk = desk
        self._specs: dict[str, Object] = {
            c["name"]: c for c in (*(pod["spec"].get("initContainers") or ()), *pod["spec"]["containers"])
        }
        self._since: dict[str, float] = {}  # monotonic time of the start, by container
        self._backoff: dict[str, float] = {}  # the next pause, by container
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._end_timer: asyncio.TimerHandle | None = None
        self._ports: dict[str, tuple[Port, ...]] = {}
        self._verdicts: dict[str, bool] = {}  # of readiness probes, by container
        self._complaints: set[str] = set()

    # What the pod says.

    def observe(self, pod: Object) -> None:
        """Take in a new version of the pod."""
        before, self.pod = self.pod, pod
        if pod["metadata"].get("deletionTimestamp"):
            self._wind_down()
        if pod["metadata"].get("annotations") != before["metadata"].get("annotations"):
            self._switch()
        if finished_by_others(pod, self.facts):
            self._evict()

    def _evict(self) -> None:
        """Somebody else has declared the pod over: an eviction, for example."""
        if not self.ended:
            self._desk.event(self, "Normal", "Killing", f"Stopping pod: its phase is {self.pod['status']['phase']}")
            self.finish()
            self._desk.changed(self)

    def _switch(self) -> None:
        """Act on the annotations that make a pod fail."""
        ready, alive = self._flag("kmn.io/ready"), self._flag("kmn.io/alive")
        for name, state in self.facts.containers.items():
            if state.state in ("starting", "running"):
                self._desk.send("health", Health(state.run, ready, alive))
                self._update_ready(name)

    def _flag(self, name: str) -> bool:
        value = annotation(self.pod, name)
        if value not in (None, "true", "false"):
            self._complain(f'annotation {name}: "true" or "false", not "{value}"; taken as "true"')
        return value != "false"

    def _seconds(self, name: str) -> float | None:
        try:
            return seconds_of(annotation(self.pod, name))
        except ValueError:
            self._complain(f'annotation {name}: a number of seconds, not "{annotation(self.pod, name)}"; ignored')
            return None

    def _complain(self, message: str) -> None:
        if message not in self._complaints:
            self._complaints.add(message)
            self._desk.event(self, "Warning", "InvalidAnnotation", message)

    # Starting.

    def advance(self) -> None:
        """Start the containers whose turn it is."""
        if self.ending or self.ended or not (self.in_force and self.facts.attached and self._desk.runtime_connected):
            return
        if not self._ports:
            self._ports = port_sets(self.pod, self._desk.services_of(self.pod))
            self._say_what_is_not_done()
        for container in startable(self.pod, self.facts):
            if container["name"] not in self._timers:
                self._start(container)

    def _say_what_is_not_done(self) -> None:
        if fields := not_emulated(self.pod):
            text = f"taken as passed: {', '.join(fields)} (no command of a manifest is ever run)"
            self._desk.event(self, "Normal", "NotEmulated", text)
        if (ports := sctp_ports(self.pod)) and not self._desk.has_sctp():
            text = f"SCTP ports {', '.join(map(str, ports))} are not opened: this kernel has no SCTP sockets"
            self._desk.event(self, "Warning", "NotEmulated", text)

    def _start(self, container: Object) -> None:
        name = container["name"]
        state = self.facts.containers[name]
        if not self._make_environment(container, state):
            return
        if state.terminated:  # it is a restart
            state.last, state.terminated = state.terminated, {}
            state.restarts += 1
        state.state, state.run = "starting", f"{self.uid}/{name}/{state.restarts}"
        addresses: tuple[str, ...] = ("0.0.0.0",)
        if self.host_network:  # a node has more addresses than its own, and replies must come from the one asked
            addresses = (self.pod["status"]["podIP"], "127.0.0.1")
        self._desk.send(
            "start",
            Container(
                id=state.run,
                netns=self.netns,
                addresses=addresses,
                pod=name_of(self.pod),
                namespace=namespace_of(self.pod),
                node=self.node,
                name=name,
                ports=self._ports.get(name, ()),
                run_seconds=self._run_seconds(container),
                ready=self._flag("kmn.io/ready"),
                alive=self._flag("kmn.io/alive"),
            ),
        )

    def _make_environment(self, container: Object, state: ContainerFacts) -> bool:
        """False: something that it needs is not there (yet)."""
        try:
            made = self._desk.environment(self.pod, container)
        except ConfigError as error:
            if state.waiting != (waiting := (_CONFIG_ERROR, str(error))):
                state.waiting = waiting
                self._desk.event(self, "Warning", "Failed", f"Error: {error}")
                self._desk.changed(self)
            return False
        if state.waiting[0] == _CONFIG_ERROR:
            state.waiting = ("", "")
        if made.skipped:
            self._desk.event(self, "Warning", "InvalidEnvironmentVariableNames", "; ".join(made.skipped))
        if made.not_emulated:
            text = f"left out of container {state.name}: {'; '.join(made.not_emulated)}"
            self._desk.event(self, "Warning", "NotEmulated", text)
        self.environment[state.name] = made.variables
        self._desk.leave_environment(self)
        return True

    @property
    def needs_config(self) -> bool:
        """Whether a container waits for what its environment refers to."""
        return any(state.waiting[0] == _CONFIG_ERROR for state in self.facts.containers.values())

    def _run_seconds(self, container: Object) -> float | None:
        """How long a container runs until it ends with success. What a Job's does, and what others do when told.

        A bare pod that is not restarted (``sleep 3600``) runs on: we do not know what its command does.
        """
        spec = self.pod["spec"]
        if container in (spec.get("initContainers") or ()):
            return None if is_sidecar(container) else 0.0
        if spec.get("restartPolicy", "Always") == "Always":
            return None
        told = self._seconds("kmn.io/run-seconds")
        owner = controller_of(self.pod)
        return 0.0 if told is None and owner is not None and owner["kind"] == "Job" else told

    def update_ports(self) -> None:
        """Services have changed, or the pod's labels."""
        if not self._ports or self.ending or self.ended:
            return
        before, self._ports = self._ports, port_sets(self.pod, self._desk.services_of(self.pod))
        for name, ports in self._ports.items():
            state = self.facts.containers[name]
            if ports != before[name] and state.state in ("starting", "running"):
                self._desk.send("ports", Ports(state.run, ports))

    # What the runtime says.

    def container_started(self, run: str) -> None:
        state = self._running(run)
        if state is None:
            return
        container = self._specs[state.name]
        state.state, state.started_at, state.waiting = "running", now(), ("", "")
        self._since[state.name] = time.monotonic()
        self.quiet_until = asyncio.get_running_loop().time() + _FIRST_RESULT
        self._desk.event(self, "Normal", "Started", f"Container {state.name} started")
        if startup := self._probe(container, "startup"):
            self._desk.send("probe", startup)
        else:
            self._startup_passed(state)
        self._desk.changed(self)

    def container_exited(self, run: str, exit_code: int, reason: str, message: str) -> None:
        state = self._running(run)
        if state is not None:
            self._ended(state, exit_code, reason, message)

    def ports_failed(self, run: str, message: str) -> None:
        state = self._running(run)
        if state is not None:
            self._desk.event(self, "Warning", "PortNotOpened", f"Container {state.name}: {message}")

    def probed(self, run: str, kind: str, success: bool, verdict: bool | None, message: str) -> None:
        """One probe has a new result."""
        state = self._running(run)
        if state is None:
            return
        if not success:
            self._desk.event(self, "Warning", "Unhealthy", f"{kind.capitalize()} probe failed: {message}")
        if verdict is None:
            return
        match kind, verdict:
            case "readiness", _:
                self._verdicts[state.name] = verdict
                self._update_ready(state.name)
            case "startup", True if not state.started:
                self._desk.send("unprobe", f"{run}/startup")
                self._startup_passed(state)
                self._desk.changed(self)
            case (("startup" | "liveness"), False) if not self.ending:
                text = f"Container {state.name} failed {kind} probe, will be restarted"
                self._desk.event(self, "Normal", "Killing", text)
                self._stop(state)
                # What does not answer its probe does not listen to SIGTERM either: 128 + SIGKILL.
                self._ended(state, 137, "Error", "")

    def runtime_lost(self) -> None:
        """All containers died with the runtime."""
        for state in self.facts.containers.values():
            if state.state == "starting":
                state.state = "waiting"
            elif state.state == "running":
                self._terminate(state, 137, "Error", "the container runtime died")
                state.state = "waiting"
        if not self.ended:
            self._desk.changed(self)

    def _running(self, run: str) -> ContainerFacts | None:
        """The container that a message is about, unless it is about an earlier run of it."""
        state = self.facts.containers.get(run.split("/")[1])
        return state if state is not None and state.run == run and state.state in ("starting", "running") else None

    # Probes.

    def _probe(self, container: Object, kind: ProbeKind) -> Probe | None:
        state = self.facts.containers[container["name"]]
        return probe_of(
            container,
            kind,
            run=state.run,
            address=self.pod["status"]["podIP"],
            netns=self._desk.node_netns(self.node),
            running_for=time.monotonic() - self._since[state.name],
            initial_delay=self._desk.initial_delay,
        )

    def _startup_passed(self, state: ContainerFacts) -> None:
        """From now on the other probes count, and the next init container may follow."""
        state.started = True
        container = self._specs[state.name]
        if container in (self.pod["spec"].get("initContainers") or ()) and not is_sidecar(container):
            return
        for kind in ("readiness", "liveness"):
            if probe := self._probe(container, kind):
                self._desk.send("probe", probe)
        self._update_ready(state.name)
        self.advance()

    def _update_ready(self, name: str) -> None:
        """A readiness probe decides. Where there is none that could see it, the pod's annotation does."""
        state, container = self.facts.containers[name], self._specs[name]
        ready = state.state == "running" and state.started
        if ready:
            probe = container.get("readinessProbe")
            check = check_of(container, probe, "") if probe else None
            seen = self._verdicts.get(name, False) if check else True
            ready = seen and ((check is not None and check.type != "tcp") or self._flag("kmn.io/ready"))
        if ready != state.ready:
            state.ready = ready
            self._desk.changed(self)

    @property
    def expects_result(self) -> bool:
        """Whether a first readiness result is about to come."""
        return any(
            state.state == "running" and not state.ready and name not in self._verdicts
            for name, state in self.facts.containers.items()
        )

    # Ending.

    def _stop(self, state: ContainerFacts) -> None:
        self._desk.send("stop", state.run)

    def _terminate(self, state: ContainerFacts, exit_code: int, reason: str, message: str) -> None:
        at = now()
        for kind in ("startup", "readiness", "liveness"):
            if f"{kind}Probe" in self._specs[state.name]:
                self._desk.send("unprobe", f"{state.run}/{kind}")
        state.terminated = {
            "containerID": f"kmn://{state.run}",
            "exitCode": exit_code,
            "reason": reason,
            **({"message": message} if message else {}),
            "startedAt": state.started_at or at,
            "finishedAt": at,
        }
        state.state, state.started, state.ready, state.started_at = "terminated", False, False, ""
        self._verdicts.pop(state.name, None)

    def _ended(self, state: ContainerFacts, exit_code: int, reason: str, message: str) -> None:
        """A container is over: run it again, perhaps after a pause, or see whether the pod is over."""
        self._terminate(state, exit_code, reason, message)
        if exit_code and message:
            self._desk.event(self, "Warning", "Failed", f"Error: container {state.name}: {message}")
        if not self.ending and restarts_after(self.pod, self._specs[state.name], succeeded=exit_code == 0):
            self._restart(state)
        if finished(self.pod, self.facts):
            self.finish()
        else:
            self.advance()
        self._desk.changed(self)

    def _restart(self, state: ContainerFacts) -> None:
        name = state.name
        if time.monotonic() - self._since.pop(name, time.monotonic()) > _BACKOFF_RESET:
            self._backoff.pop(name, None)
        pause = self._backoff.get(name, 0.0)
        self._backoff[name] = min(max(_BACKOFF_FIRST, pause * 2), _BACKOFF_LIMIT)
        state.state = "waiting"
        if not pause:
            return
        where = f"{name_of(self.pod)}_{namespace_of(self.pod)}({self.uid})"
        state.waiting = ("CrashLoopBackOff", f"back-off {pause:g}s restarting failed container={name} pod={where}")
        state.last = state.terminated
        self._desk.event(self, "Warning", "BackOff", f"Back-off restarting failed container {name} in pod {where}")
        self._timers[name] = asyncio.get_running_loop().call_later(pause, self._pause_over, name)

    def _pause_over(self, name: str) -> None:
        del self._timers[name]
        self.advance()

    def _wind_down(self) -> None:
        """The pod is being deleted: give its containers the time that they ask for, within the grace period."""
        if self.ended and not self.ending:  # it had run to its end before
            self.ending = True
            self._desk.tear_down(self)
            return
        grace = self.pod["metadata"].get("deletionGracePeriodSeconds") or 0
        loop = asyncio.get_running_loop()
        if self.ending:
            if self._end_timer is not None and self._end_timer.when() > loop.time() + grace:
                self._end_timer.cancel()
                self._end_timer = loop.call_later(grace, self.finish)
            return
        self.ending = True
        asked = 0.0
        for name, state in self.facts.containers.items():
            if state.state == "running":
                self._desk.event(self, "Normal", "Killing", f"Stopping container {name}")
                for kind in ("startup", "liveness"):
                    self._desk.send("unprobe", f"{state.run}/{kind}")
                hook = ((self._specs[name].get("lifecycle") or {}).get("preStop") or {}).get("sleep") or {}
                asked = max(asked, hook.get("seconds", 0))
        if any(state.state == "running" for state in self.facts.containers.values()):
            asked += self._seconds("kmn.io/shutdown-seconds") or 0.0
        if (wait := min(asked, grace)) > 0:
            self._end_timer = loop.call_later(wait, self.finish)
        else:
            self.finish()

    def finish(self) -> None:
        """Stop what runs, for good. Emulated containers end with success when they are asked to."""
        if self.ended:
            return
        self.abandon()
        for state in self.facts.containers.values():
            if state.state in ("starting", "running"):
                self._stop(state)
                self._terminate(state, 0, "Completed", "")
        self._desk.tear_down(self)

    def abandon(self) -> None:
        """Do nothing more about the pod."""
        self.ended = True
        for timer in (*self._timers.values(), self._end_timer):
            if timer is not None:
                timer.cancel()
        self._timers.clear()
