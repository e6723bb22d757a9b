"""What a step of a case does, before anything is checked: the actions of the format, in its order."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

from emulation import READY, Emulation, eventually, field_at, resource_named
from outside import Servers

from kmn.k8s.errors import NotFound
from kmn.k8s.objects import Key, Object, key_of, name_of, namespace_of, resource_of
from kmn.k8s.resources import PODS, SERVICES, Resource

__all__ = ["STEP_WORDS", "Actions"]

_SHUTDOWN = "kmn.io/shutdown-seconds"
_LONG = 300  # seconds; longer than any case
STEP_WORDS = (
    "delete", "apply", "relabel", "scale", "set_ready", "set_phase", "terminate", "delete_one_backend_other_than",
    "remember",
)  # fmt: skip


class Actions:
    """Carries out steps of one case, and takes everything away that they made."""

    def __init__(self, emulation: Emulation, servers: Servers) -> None:
        self.emulation = emulation
        self._client = emulation.client
        self._servers = servers
        self._made: dict[tuple[Resource, Key], None] = {}
        self._leaving: set[str] = set()

    def run(self, step: dict[str, Any]) -> None:
        """All actions of a step, then wait until they are in force."""
        for word in STEP_WORDS[:-1]:
            if word in step:
                getattr(self, "_" + word)(step[word])
        self.settle()
        for name, what in step.get("remember", {}).items():
            self._remember(name, what)

    def settle(self) -> None:
        self.emulation.settle(self._leaving)

    def clean(self) -> None:
        """Delete all that was made, at once, and wait until it is gone."""
        for resource, key in reversed(list(self._made)):
            try:
                self._client.delete(resource, key.namespace, key.name, grace_seconds=0)
            except NotFound:
                pass
        for resource, key in self._made:
            eventually(partial(self._assert_gone, resource, key))
        self._made.clear()
        self._leaving.clear()
        self.emulation.settle()

    def created(self, obj: Object) -> None:
        """An object that a check made: it is to go with the others."""
        self._made[resource_of(obj), key_of(obj)] = None

    # -- the actions, by their words

    def _delete(self, wanted: list[str]) -> None:
        gone = []
        for text in wanted:
            resource, name = self._named(self.emulation.fill(text))
            obj = self.emulation.get(resource, name)
            self._client.delete(resource, namespace_of(obj), name_of(obj))
            gone.append((resource, key_of(obj)))
        for resource, key in gone:
            eventually(partial(self._assert_gone, resource, key))

    def _apply(self, manifests: list[Object]) -> None:
        self.apply([self.emulation.fill(manifest) for manifest in manifests])

    def apply(self, objects: list[Object]) -> None:
        for obj in objects:
            self._serve_outside(obj)
        changes = self.emulation.cluster.apply(*(_with_failing_probe(obj) for obj in objects))
        for change in changes:
            if change.action == "created":
                self._made[resource_of(change.obj), key_of(change.obj)] = None

    def _relabel(self, wanted: dict[str, dict[str, str]]) -> None:
        for text, labels in wanted.items():
            patch = [{"op": "add", "path": "/metadata/labels", "value": labels}]
            self._patch(text, patch, "json")

    def _scale(self, wanted: dict[str, int]) -> None:
        for text, replicas in wanted.items():
            self._patch(text, {"spec": {"replicas": replicas}})

    def _set_ready(self, wanted: dict[str, bool]) -> None:
        for text, ready in wanted.items():
            self._patch(text, _annotations({READY: "true" if ready else "false"}))

    def _set_phase(self, wanted: dict[str, str]) -> None:
        self.settle()  # an eviction happens to a pod that runs
        for text, phase in wanted.items():
            resource, name = self._named(text)
            key = key_of(self.emulation.get(resource, name))
            status = {"status": {"phase": phase}}
            self._client.patch(resource, key.namespace, key.name, status, subresource="status")

    def _terminate(self, wanted: dict[str, dict[str, bool]]) -> None:
        for text, state in wanted.items():
            changes = {_SHUTDOWN: str(_LONG), READY: "true" if state["ready"] else "false"}
            self._patch(text, _annotations(changes))
            _, name = self._named(self.emulation.fill(text))
            self.settle()
            key = key_of(self.emulation.get(PODS, name))
            self._client.delete(PODS, key.namespace, key.name, grace_seconds=_LONG)
            self._leaving.add(name)

    def _delete_one_backend_other_than(self, remembered: str) -> None:
        """One of the pods that a Service of the case selects, and that was not remembered."""
        keep = self.emulation.memory[remembered]
        services = [str(key) for resource, key in self._made if resource is SERVICES]
        others = [pod for name in services for pod in self.emulation.pods_of(name) if pod != keep]
        assert others, f"no backend but {keep}"
        self._delete([f"Pod {others[0]}"])

    def _remember(self, name: str, what: str) -> None:
        kind, obj, path = self.emulation.fill(what).split()

        def look() -> str:
            value = field_at(self.emulation.get(resource_named(kind), obj), path)
            assert value is not None, f"{what}: there is nothing"
            return str(value)

        self.emulation.memory[name] = eventually(look, 3)

    # -- details

    def _named(self, text: str) -> tuple[Resource, str]:
        kind, _, name = text.partition(" ")
        return resource_named(kind), name

    def _patch(self, text: str, patch: Any, patch_type: Any = "merge") -> None:
        resource, name = self._named(self.emulation.fill(text))
        key = key_of(self.emulation.get(resource, name))
        self._client.patch(resource, key.namespace, key.name, patch, patch_type=patch_type)

    def _assert_gone(self, resource: Resource, key: Key) -> None:
        try:
            obj = self._client.get(resource, key.namespace, key.name)
        except NotFound:
            return
        # A controller may have made another one of that name, such as the Endpoints of a Service.
        made_anew = obj["metadata"].get("ownerReferences") and "deletionTimestamp" not in obj["metadata"]
        assert made_anew, f"{resource.kind} {key} is still there"

    def _serve_outside(self, obj: Object) -> None:
        """Addresses outside that endpoints name: somebody has to answer there."""
        if obj["kind"] == "Endpoints":
            ends = [
                (address["ip"], port)
                for subset in obj.get("subsets") or ()
                for address in subset.get("addresses") or ()
                for port in subset.get("ports") or ()
            ]
        elif obj["kind"] == "EndpointSlice":
            ends = [
                (address, port)
                for endpoint in obj.get("endpoints") or ()
                for address in endpoint["addresses"]
                for port in obj.get("ports") or ()
            ]
        else:
            return
        hosts = {str(host.address): host.name for host in self.emulation.spec.outside_hosts}
        for address, port in ends:
            if address in hosts:
                machine = self.emulation.cluster.host(hosts[address])
                self._servers.serve(hosts[address], machine.netns, port["port"], port.get("protocol", "TCP"))


def _annotations(values: dict[str, str]) -> Object:
    return {"metadata": {"annotations": values}}


def _with_failing_probe(obj: Object) -> Object:
    """A pod whose readiness probe runs ``/bin/false`` is unready. kmn runs no command of a manifest: say it so."""
    if obj["kind"] != "Pod":
        return obj
    commands = [
        (container.get("readinessProbe") or {}).get("exec", {}).get("command")
        for container in obj["spec"]["containers"]
    ]
    if ["/bin/false"] not in commands:
        return obj
    changed = copy.deepcopy(obj)
    changed["metadata"].setdefault("annotations", {})[READY] = "false"
    return changed
