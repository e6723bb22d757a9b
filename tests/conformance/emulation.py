"""The running emulation as the cases see it: settled or not, where things are, and what placeholders stand for."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, TypeVar

from kmn import Cluster
from kmn.controlplane.podstate import finished, is_ready
from kmn.k8s.errors import NotFound
from kmn.k8s.objects import Key, Object, annotation, key_of, labels, name_of, namespace_of
from kmn.k8s.resources import ALL, ENDPOINTSLICES, NODES, PODS, SERVICES, Resource
from kmn.machine import Machine
from kmn.ready import Problem, Snapshot, problems, take

__all__ = ["READY", "Emulation", "eventually", "field_at", "resource_named"]

READY = "kmn.io/ready"  # annotation: what a readiness probe that is not emulated says
SETTLE = 20.0  # seconds; all that is waited for takes fractions of one
_PLACEHOLDER = re.compile(r"\$\{([^}]+)\}")
_INDEXED = re.compile(r"(\w+)\[(\d+)\]")

T = TypeVar("T")


def eventually(check: Callable[[], T], timeout: float = SETTLE, pause: float = 0.02) -> T:
    """Try until ``check`` raises no AssertionError; its last one is raised when time is up."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return check()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        time.sleep(pause)


def resource_named(kind: str) -> Resource:
    """The resource of a kind as cases write it: ``Pod``, ``Deployment``."""
    found = [resource for resource in ALL if resource.kind == kind]
    assert len(found) == 1, f"kind {kind} of a case is not known"
    return found[0]


def field_at(obj: Any, path: str) -> Any:
    """What is at ``spec.ports[0].nodePort``; None where there is nothing."""
    for part in path.split("."):
        name, *indices = re.findall(r"[^\[\]]+", part)
        obj = obj.get(name) if isinstance(obj, dict) else None
        for index in indices:
            obj = obj[int(index)] if isinstance(obj, list) and int(index) < len(obj) else None
    return obj


class Emulation:
    """One cluster for all cases. What a case says on the way (``remember``) is in ``memory``."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.client = cluster.client
        self.memory: dict[str, str] = {}
        self.resolvers: dict[str, Callable[[str], str]] = {}  # further placeholders, by the word before the colon
        assert cluster.spec is not None
        self.spec = cluster.spec
        self._hosts = [host.name for host in self.spec.outside_hosts]

    # -- placeholders

    def fill(self, value: Any) -> Any:
        """``value`` with its placeholders replaced, however deep."""
        if isinstance(value, dict):
            return {key: self.fill(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.fill(item) for item in value]
        if isinstance(value, str):
            return _PLACEHOLDER.sub(lambda match: self._value(match[1]), value)
        return value

    def _value(self, text: str) -> str:
        word, colon, rest = text.partition(":")
        if not colon:
            if word in self.memory:
                return self.memory[word]
            if word == "clusterDNS":
                return str(self.spec.dns_address)
            indexed = _INDEXED.fullmatch(word)
            assert indexed is not None, f"placeholder ${{{text}}} is not known"
            networks = {"serviceCIDR": self.spec.service_cidr, "podCIDR": self.spec.pod_cidr}
            return str(networks[indexed[1]][int(indexed[2])])
        if word == "node":
            return rest
        if word == "ip":
            return self.address(rest)
        assert word in self.resolvers, f"placeholder ${{{text}}} is not known"
        return self.resolvers[word](rest)

    def address(self, what: str) -> str:
        """The address of ``pod:NS/NAME``, ``service:NS/NAME``, ``node:n1``, ``external:e1``."""
        kind, _, name = what.partition(":")
        if kind == "service":
            found = field_at(self.get(SERVICES, name), "spec.clusterIP")
        elif kind == "pod":
            found = field_at(self.get(PODS, name), "status.podIP")
        else:
            found = self.machine(what).ip
        assert found, f"{what} has no address"
        return str(found)

    def machine(self, what: str) -> Machine:
        """Where ``pod:NS/NAME``, ``node:n1`` or ``external:e1`` is."""
        kind, _, name = what.partition(":")
        if kind == "pod":
            return self.cluster.pod(name)
        return self.cluster.node(name) if kind == "node" else self.cluster.host(name)

    # -- objects

    def get(self, resource: Resource, name: str) -> Object:
        """By ``NAMESPACE/NAME`` (or the name alone, where there are no namespaces). Raises NotFound."""
        namespace, _, short = name.rpartition("/")
        return self.client.get(resource, namespace, short)

    def find(self, resource: Resource, name: str) -> Object | None:
        try:
            return self.get(resource, name)
        except NotFound:
            return None

    def pods_of(self, service: str) -> list[str]:
        """``NAMESPACE/NAME`` of the pods that a Service selects, those that are going left out."""
        obj = self.get(SERVICES, service)
        selector = obj["spec"].get("selector") or {}
        return [
            str(key_of(pod))
            for pod in self.client.list(PODS, namespace_of(obj)).items
            if selector.items() <= labels(pod).items() and "deletionTimestamp" not in pod["metadata"]
        ]

    # -- waiting

    def settle(self, leaving: Collection[str] = ()) -> None:
        """Wait until pods are what the case wants them to be, endpoints follow them, and the data plane has it all.

        ``leaving`` names pods that serve on although they were deleted. Pods with the annotation ``kmn.io/ready:
        "false"`` are to be unready, failed ones stay so.
        """

        def check() -> None:
            snapshot = take(self.client)
            missing = [p for p in problems(snapshot) if not p.what.startswith("pod ")]
            missing += self._pods_missing(snapshot, leaving) + self._endpoints_missing(snapshot)
            assert not missing, "; ".join(f"{p.what}: {p.reason}: {p.message}" for p in missing[:5])

        eventually(check)

    def _pods_missing(self, snapshot: Snapshot, leaving: Collection[str]) -> list[Problem]:
        found = []
        settled = []
        for pod in snapshot.items(PODS):
            name = str(key_of(pod))
            going = "deletionTimestamp" in pod["metadata"]
            running = (pod.get("status") or {}).get("phase") == "Running"
            unready = annotation(pod, READY) == "false"
            if going != (name in leaving):
                found.append(Problem(f"pod {name}", "Terminating" if going else "Running", "is to be the opposite"))
            elif unready or going or finished(pod):
                if not finished(pod) and (not running or is_ready(pod) == unready):
                    found.append(Problem(f"pod {name}", "Ready", "is not yet what its annotation says"))
            else:
                settled.append(pod)
        lists = dict(snapshot.lists)
        lists[PODS.plural] = replace(lists[PODS.plural], items=settled)
        return found + [p for p in problems(replace(snapshot, lists=lists)) if p.what.startswith("pod ")]

    def _endpoints_missing(self, snapshot: Snapshot) -> list[Problem]:
        """Services whose slices say something else than their pods, computed from the pods alone."""
        have: dict[Key, set[tuple[str, bool, bool]]] = {}
        for each in snapshot.items(ENDPOINTSLICES):
            owner = Key(namespace_of(each), labels(each).get("kubernetes.io/service-name", ""))
            for endpoint in each.get("endpoints") or ():
                conditions = endpoint.get("conditions") or {}
                going = bool(conditions.get("terminating"))
                serving = bool(conditions.get("serving", conditions.get("ready", True)))
                have.setdefault(owner, set()).update((address, serving, going) for address in endpoint["addresses"])
        found = []
        for service in snapshot.items(SERVICES):
            selector = service["spec"].get("selector")
            if not selector or service["spec"].get("type") == "ExternalName":
                continue
            want = {
                (pod["status"]["podIP"], is_ready(pod), "deletionTimestamp" in pod["metadata"])
                for pod in snapshot.items(PODS)
                if namespace_of(pod) == namespace_of(service)
                and selector.items() <= labels(pod).items()
                and (pod.get("status") or {}).get("podIP")
                and not finished(pod)
            }
            has = have.get(key_of(service), set())
            if want != has:
                found.append(
                    Problem(f"service {key_of(service)}", "EndpointsBehind", f"has {sorted(has)}, not {sorted(want)}")
                )
        return found

    def nodes(self) -> list[str]:
        return [name_of(node) for node in self.client.list(NODES).items]
