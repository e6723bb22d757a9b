"""The scheduler: gives each pod a node, or says why none will do.

How a node is chosen is in ``scheduling``; here is who asks when. A pod that names its node already is left alone.
Not emulated: preemption, priorities, resource requests (nothing is measured), eviction by NoExecute taints, and what
pods that are placed already would prefer about others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kmn.controlplane.podstate import finished, node_of, terminating
from kmn.controlplane.runtime import LoopClient, Reconciler
from kmn.controlplane.scheduling.choose import Candidates, Unschedulable, candidates, choose
from kmn.controlplane.scheduling.state import NodeState, SchedulingState
from kmn.controlplane.scheduling.wants import Wants
from kmn.controlplane.workloads.ownership import get_or_none
from kmn.k8s.client import WatchEvent
from kmn.k8s.objects import Key, Object, condition, controller_of, describe, key_of, name_of, now, uid_of
from kmn.k8s.resources import NAMESPACES, NODES, PODS, Resource

__all__ = ["Scheduler"]

_NAME = "default-scheduler"
# After a change, pods that wait are tried again all together, and less often the more there are.
_RETRY, _RETRY_PER_POD = 0.02, 0.001


class Scheduler(Reconciler[Key]):
    """Binds pods to nodes."""

    component = _NAME

    def __init__(self, client: LoopClient) -> None:
        super().__init__(client)
        self._state = SchedulingState()
        self._waiting: set[Key] = set()
        self._unreported: set[str] = set()  # nodes of which nobody has said yet whether they are ready
        self._candidates: dict[str, Candidates] = {}

    def watches(self) -> Iterable[tuple[Resource, Callable[[WatchEvent], None]]]:
        return ((NAMESPACES, self._on_namespace), (NODES, self._on_node), (PODS, self._on_pod))

    def subject(self, key: Key) -> Object | None:
        return get_or_none(self.client, PODS, key)

    def reconcile(self, key: Key) -> None:
        pod = get_or_none(self.client, PODS, key)
        self._waiting.discard(key)
        if pod is None or node_of(pod) or terminating(pod) or finished(pod):
            return
        if self._unreported:
            # The cluster is coming up. Choosing among the first few nodes would spread badly, and to report each pod
            # as unschedulable for the moment would only be noise.
            self._waiting.add(key)
            return
        if pod["spec"].get("schedulingGates"):
            self._refuse(pod, "SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates")
            return
        wanted = pod["spec"].get("schedulerName") or _NAME
        if wanted != _NAME:
            message = f"{describe(pod)}: spec.schedulerName: {wanted}: kmn has one scheduler, {_NAME}"
            self.recorder.once(pod, "Warning", "NotEmulated", message)
            return
        try:
            node = self._choose(pod)
        except Unschedulable as why:
            self._waiting.add(key)
            if self._refuse(pod, "Unschedulable", str(why)):
                self.recorder.event(pod, "Warning", "FailedScheduling", str(why))
            return
        self._bind(pod, node)

    def _choose(self, pod: Object) -> NodeState:
        signature, wants = self._state.wants(pod)
        ref = controller_of(pod)
        return choose(self._state, wants, ref["uid"] if ref else "", self._candidates_for(signature, wants))

    def _candidates_for(self, signature: str, wants: Wants) -> Candidates:
        found = self._candidates.get(signature)
        if found is None or found.version != self._state.version:
            if len(self._candidates) > 1024:
                self._candidates.clear()
            found = self._candidates[signature] = candidates(self._state, wants)
        return found

    def _bind(self, pod: Object, node: NodeState) -> None:
        bound = self.client.update({**pod, "spec": {**pod["spec"], "nodeName": node.name}})
        # The store tells of it in a moment; the next pod must know now.
        self._state.place(bound)
        message = f"Successfully assigned {key_of(pod)} to {node.name}"
        self.recorder.event(pod, "Normal", "Scheduled", message)

    def _refuse(self, pod: Object, reason: str, message: str) -> bool:
        """Say on the pod why it has no node; False if it says so already."""
        current = condition(pod, "PodScheduled")
        if current is not None and (current.get("reason"), current.get("message")) == (reason, message):
            return False
        self.client.update(with_scheduled(pod, False, reason, message), subresource="status")
        return True

    def _on_pod(self, event: WatchEvent) -> None:
        if event.type == "BOOKMARK":
            return
        pod = event.object
        if event.type == "DELETED" or (finished(pod) and node_of(pod)):
            self._waiting.discard(key_of(pod))
            if self._state.remove(uid_of(pod)):
                self._retry()
        elif node_of(pod):
            if self._state.place(pod):
                self._retry()
        elif key_of(pod) not in self._waiting or event.type == "ADDED":
            self.queue.add(key_of(pod))
        else:
            # Most likely our own refusal. A change of the pod's own (a gate gone, labels) is worth a try, not a hurry.
            self.queue.add_after(key_of(pod), 1.0)

    def _on_node(self, event: WatchEvent) -> None:
        self._note_report(event)
        if event.type == "DELETED":
            self._state.remove_node(name_of(event.object))
            self._retry()
        elif event.type != "BOOKMARK" and self._state.set_node(event.object):
            self._retry()

    def _note_report(self, event: WatchEvent) -> None:
        name = name_of(event.object)
        before = bool(self._unreported)
        if event.type == "DELETED" or condition(event.object, "Ready") is not None:
            self._unreported.discard(name)
        else:
            self._unreported.add(name)
        if before and not self._unreported:
            self._retry()

    def _on_namespace(self, event: WatchEvent) -> None:
        if event.type != "BOOKMARK":
            self._state.set_namespace(event.object, gone=event.type == "DELETED")

    def _retry(self) -> None:
        wait = _RETRY + _RETRY_PER_POD * len(self._waiting)
        for key in self._waiting:
            self.queue.add_after(key, wait)


def with_scheduled(pod: Object, scheduled: bool, reason: str = "", message: str = "") -> Object:
    """The pod with another ``PodScheduled`` condition; the original is not changed."""
    status = pod.get("status") or {}
    conditions = status.get("conditions") or []
    current = condition(pod, "PodScheduled")
    value = "True" if scheduled else "False"
    since = current["lastTransitionTime"] if current is not None and current["status"] == value else now()
    fresh = {"type": "PodScheduled", "status": value, "lastProbeTime": None, "lastTransitionTime": since}
    if reason:
        fresh |= {"reason": reason, "message": message}
    others = [c for c in conditions if c["type"] != "PodScheduled"]
    return {**pod, "status": {**status, "phase": status.get("phase") or "Pending", "conditions": [*others, fresh]}}
