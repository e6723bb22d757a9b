"""DaemonSets: one pod on every node that the template may run on.

Rules: upstream's ``pkg/controller/daemon``. The scheduler binds the pods: each requires its node by name.
"""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Callable, Iterable
from typing import Any

from kmn.controlplane.podstate import available_in, finished, is_ready, node_of, terminating
from kmn.controlplane.runtime import LoopClient
from kmn.controlplane.scheduling.nodematch import effective_taints, node_matches, untolerated
from kmn.controlplane.workloads.ownership import Workloads, get_or_none, put_status
from kmn.controlplane.workloads.replicas import scaled
from kmn.controlplane.workloads.revisions import REVISION_LABEL, clean_up, hash_of, sync_revisions
from kmn.controlplane.workloads.template import pod_from_template
from kmn.k8s.client import WatchEvent
from kmn.k8s.errors import NotFound
from kmn.k8s.objects import Key, Object, labels, name_of, namespace_of, uid_of
from kmn.k8s.resources import DAEMONSETS, NODES, PODS, Resource
from kmn.k8s.selectors import LabelSelector, selector_of_object

__all__ = ["DaemonSets", "daemon_tolerations", "pod_for_node", "target_node"]

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_NODE_WINDOW = 0.02  # seconds in which changes of nodes are gathered


class DaemonSets(Workloads):
    """Keeps one pod a node."""

    component = "daemonset-controller"
    resource = DAEMONSETS

    def __init__(self, client: LoopClient) -> None:
        super().__init__(client)
        self._nodes: dict[str, tuple[Any, ...]] = {}  # what placement depends on

    def selector(self, workload: Object) -> LabelSelector:
        return selector_of_object(workload["spec"].get("selector") or {})

    def watches(self) -> Iterable[tuple[Resource, Callable[[WatchEvent], None]]]:
        return (*super().watches(), (NODES, self._on_node))

    def reconcile(self, key: Key) -> None:
        ds = get_or_none(self.client, DAEMONSETS, key)
        if ds is None:
            return
        at = dt.datetime.now(dt.UTC)
        revisions = sync_revisions(self.client, ds)
        digest = hash_of(revisions.update)
        by_node: dict[str, list[Object]] = {}
        pods = self.claimed(ds)
        for pod in pods:
            by_node.setdefault(target_node(pod), []).append(pod)
        nodes = self.client.list(NODES).items
        wanted = [name_of(node) for node in nodes if should_run(ds, node)]
        if not terminating(ds):
            # A node that only does not tolerate new pods (NoSchedule) keeps the ones that it has.
            kept = {name_of(node) for node in nodes if should_run(ds, node, ("NoExecute",))}
            self._place(ds, wanted, kept, by_node, digest)
            self._roll(ds, wanted, by_node, digest, at)
        put_status(self.client, ds, status_of(ds, wanted, by_node, digest, at))
        clean_up(self.client, ds, revisions, pods)
        seconds = ds["spec"].get("minReadySeconds") or 0
        wait = min((w for pod in pods if (w := available_in(pod, seconds, at))), default=None)
        if wait is not None:
            self.queue.add_after(key, wait)

    def _place(
        self, ds: Object, wanted: list[str], kept: set[str], by_node: dict[str, list[Object]], digest: str
    ) -> None:
        """Make missing pods; delete those on other nodes, failed ones, and the younger of two."""
        for node, pods in list(by_node.items()):
            done = [pod for pod in pods if finished(pod) and not terminating(pod)]
            for pod in done:
                self.recorder.event(
                    ds, "Warning", "FailedDaemonPod", f"Found failed daemon pod {name_of(pod)} on node {node}"
                )
            live = [pod for pod in pods if not finished(pod) and not terminating(pod)]
            live.sort(key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
            surplus = live if node not in kept else self._duplicates(ds, live, digest)
            for pod in (*done, *surplus):
                self._delete(ds, pod)
                pods.remove(pod)
        for node in wanted:
            if not by_node.get(node):
                by_node[node] = [self._create(ds, node, digest)]

    def _duplicates(self, ds: Object, live: list[Object], digest: str) -> list[Object]:
        surge = _limits(ds, 1)[0]
        if not surge or len({labels(pod).get(REVISION_LABEL) for pod in live}) < 2:
            return live[1:]
        # During a surge an old and a new pod share the node until the new one is ready.
        new = [pod for pod in live if labels(pod).get(REVISION_LABEL) == digest]
        old = [pod for pod in live if labels(pod).get(REVISION_LABEL) != digest]
        return old if any(map(is_ready, new)) else [*old[1:], *new[1:]]

    def _roll(
        self, ds: Object, wanted: list[str], by_node: dict[str, list[Object]], digest: str, at: dt.datetime
    ) -> None:
        """Rolling update: replace pods of old templates, as many at a time as may be unavailable."""
        if (ds["spec"].get("updateStrategy") or {}).get("type") == "OnDelete":
            return
        seconds = ds["spec"].get("minReadySeconds") or 0
        surge, budget = _limits(ds, len(wanted))
        available: list[tuple[str, Object]] = []
        for node in wanted:
            live = [pod for pod in by_node.get(node, ()) if not terminating(pod)]
            if len(live) > 1:
                surge -= 1
            old = [pod for pod in live if labels(pod).get(REVISION_LABEL) != digest]
            up = any(available_in(pod, seconds, at) == 0 for pod in live)
            if not up:
                budget -= 1
                for pod in old:  # serves nobody: nothing is lost
                    self._delete(ds, pod)
            elif old and len(live) == 1:
                available.append((node, old[0]))
        for node, pod in available:
            if _limits(ds, len(wanted))[0]:
                if surge > 0:
                    surge -= 1
                    by_node[node].append(self._create(ds, node, digest))
            elif budget > 0:
                budget -= 1
                self._delete(ds, pod)

    def _create(self, ds: Object, node: str, digest: str) -> Object:
        pod = self.client.create(pod_for_node(ds, node, digest))
        self.recorder.event(ds, "Normal", "SuccessfulCreate", f"Created pod: {name_of(pod)}")
        return pod

    def _delete(self, ds: Object, pod: Object) -> None:
        try:
            self.client.delete(PODS, namespace_of(pod), name_of(pod), uid=uid_of(pod))
        except NotFound:
            return
        self.recorder.event(ds, "Normal", "SuccessfulDelete", f"Deleted pod: {name_of(pod)}")

    def _on_node(self, event: WatchEvent) -> None:
        if event.type == "BOOKMARK":
            return
        name = name_of(event.object)
        relevant = None if event.type == "DELETED" else (labels(event.object), effective_taints(event.object))
        if relevant == self._nodes.get(name):
            return
        if relevant is None:
            del self._nodes[name]
        else:
            self._nodes[name] = relevant
        for selectors in self._selectors.values():
            for key in selectors:
                self.queue.add_after(key, _NODE_WINDOW)


def daemon_tolerations(pod_spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The template's tolerations and those that every DaemonSet pod gets."""
    always = [
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
    ]
    if pod_spec.get("hostNetwork"):
        always.append(("network-unavailable", "NoSchedule"))
    added = [{"key": f"node.kubernetes.io/{name}", "operator": "Exists", "effect": effect} for name, effect in always]
    own = list(pod_spec.get("tolerations") or ())
    return own + [toleration for toleration in added if toleration not in own]


def should_run(ds: Object, node: Object, effects: tuple[str, ...] = ("NoSchedule", "NoExecute")) -> bool:
    """Whether the node gets a pod. With ``NoExecute`` alone: whether it may keep one that it has."""
    spec = ds["spec"]["template"].get("spec") or {}
    if spec.get("nodeName") and spec["nodeName"] != name_of(node):
        return False
    return node_matches(spec, node) and untolerated(effective_taints(node), daemon_tolerations(spec), effects) is None


def pod_for_node(ds: Object, node: str, digest: str) -> Object:
    """A pod that only ``node`` will do for (``ReplaceDaemonSetPodNodeNameNodeAffinity`` upstream)."""
    pod = pod_from_template(ds, ds["spec"]["template"])
    pod["metadata"]["labels"][REVISION_LABEL] = digest
    spec = pod["spec"]
    spec["tolerations"] = daemon_tolerations(spec)
    affinity = copy.deepcopy(spec.get("affinity") or {})
    fields = [{"key": "metadata.name", "operator": "In", "values": [node]}]
    required = affinity.setdefault("nodeAffinity", {}).setdefault(_REQUIRED, {})
    terms = required.get("nodeSelectorTerms") or [{}]
    required["nodeSelectorTerms"] = [{**term, "matchFields": fields} for term in terms]
    spec["affinity"] = affinity
    return pod


def target_node(pod: Object) -> str:
    """The node of a daemon pod: where it is bound, or where its affinity will have it."""
    if node_of(pod):
        return node_of(pod)
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    for term in (affinity.get(_REQUIRED) or {}).get("nodeSelectorTerms") or ():
        for field in term.get("matchFields") or ():
            if field["key"] == "metadata.name" and field.get("values"):
                return str(field["values"][0])
    return ""


def _limits(ds: Object, nodes: int) -> tuple[int, int]:
    """``maxSurge`` and ``maxUnavailable`` in pods."""
    rolling = (ds["spec"].get("updateStrategy") or {}).get("rollingUpdate") or {}
    surge = scaled(rolling.get("maxSurge") or 0, nodes, round_up=True)
    unavailable = scaled(rolling.get("maxUnavailable", 1), nodes, round_up=True)
    return surge, unavailable if surge else max(1, unavailable)


def status_of(
    ds: Object, wanted: list[str], by_node: dict[str, list[Object]], digest: str, at: dt.datetime
) -> dict[str, Any]:
    """The status that follows from nodes and pods."""
    seconds = ds["spec"].get("minReadySeconds") or 0
    live = {n: pods for n, all_pods in by_node.items() if (pods := [p for p in all_pods if not terminating(p)])}
    on_wanted = [live[node] for node in wanted if node in live]
    available = sum(any(available_in(pod, seconds, at) == 0 for pod in pods) for pods in on_wanted)
    return {
        "observedGeneration": ds["metadata"].get("generation", 0),
        "desiredNumberScheduled": len(wanted),
        "currentNumberScheduled": len(on_wanted),
        "numberMisscheduled": len(live.keys() - set(wanted)),
        "numberReady": sum(any(map(is_ready, pods)) for pods in on_wanted),
        "numberAvailable": available,
        "numberUnavailable": len(wanted) - available,
        "updatedNumberScheduled": sum(
            any(labels(pod).get(REVISION_LABEL) == digest for pod in pods) for pods in on_wanted
        ),
    }
