"""The world of the NetworkPolicy cases on a running emulation: the fixture's pods once, each case's objects on top."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from emulation import Emulation, eventually, resource_named
from netprobe import Probe, reached
from outside import Servers
from policyworld import NAME_LABEL, Table, filled

from kmn.errors import UserError
from kmn.k8s.errors import NotFound
from kmn.k8s.objects import Key, Object, key_of, labels, name_of, resource_of
from kmn.k8s.resources import NAMESPACES, PODS, Resource

__all__ = ["PolicyCluster"]


class PolicyCluster:
    """``fixture`` stays from case to case; what a case changes of it is put back by :meth:`clean`."""

    def __init__(self, emulation: Emulation, servers: Servers) -> None:
        self._emulation = emulation
        self._client = emulation.client
        self._servers = servers
        self._fixture: list[Object] = []
        self._made: dict[tuple[Resource, Key], None] = {}

    def begin(self, fixture: Iterable[Object]) -> None:
        """Have these objects (and no others of an earlier fixture) before a case."""
        fixture = list(fixture)
        if fixture != self._fixture:
            self._delete(reversed(self._fixture))
            self._fixture = fixture
        self._emulation.cluster.apply(*fixture)
        for obj in fixture:
            if labels(self._get(obj)) != _labels(obj):
                self._relabel(obj["kind"], key_of(obj), labels(obj))
        self._emulation.settle()

    def clean(self) -> None:
        """Take away what the case made."""
        fixed = {(resource_of(obj), key_of(obj)) for obj in self._fixture}
        for resource, key in reversed([each for each in self._made if each not in fixed]):
            try:
                self._client.delete(resource, key.namespace, key.name, grace_seconds=0)
            except NotFound:
                continue
            eventually(lambda r=resource, k=key: self._assert_gone(r, k))  # type: ignore[misc]
        self._made.clear()

    def run(self, step: dict[str, Any], addresses: dict[str, str]) -> bool:
        """One step of a case, until it is in force; whether an object of it was refused."""
        refused = False
        for each in step.get("delete") or ():
            resource, key = resource_named(each["kind"]), Key(each.get("namespace", ""), each["name"])
            self._client.delete(resource, key.namespace, key.name, grace_seconds=0)
            eventually(lambda r=resource, k=key: self._assert_gone(r, k))  # type: ignore[misc]
        for manifest in step.get("apply") or ():
            try:
                (change,) = self._emulation.cluster.apply(filled(manifest, addresses))
                if change.action == "created":
                    self._made[resource_of(change.obj), key_of(change.obj)] = None
            except UserError:
                refused = True
        for each in step.get("relabel") or ():
            self._relabel(each["kind"], Key(each.get("namespace", ""), each["name"]), each["labels"])
        self._emulation.settle()
        return refused

    def addresses(self) -> dict[str, str]:
        """Of pods as ``x/a``, of outside hosts as ``ext/e1``."""
        pods = {str(key_of(pod)): str(pod["status"]["podIP"]) for pod in self._client.list(PODS).items}
        return pods | self.external()

    def external(self) -> dict[str, str]:
        return {f"ext/{host.name}": str(host.address) for host in self._emulation.spec.outside_hosts}

    def table(self, protocol: str, port: int, expected: Table) -> Table:
        """Who reaches whom, of the pairs in ``expected``."""
        addresses = self.addresses()
        probes = [
            Probe(
                f"{source} {destination}", self._emulation.machine(f"pod:{source}").netns, addresses[destination], port,
                protocol, destination.partition("/")[2],
            )
            for source, row in expected.items()
            for destination in row
        ]  # fmt: skip
        for destination in {name for row in expected.values() for name in row if name.startswith("ext/")}:
            host = destination.removeprefix("ext/")
            self._servers.serve(host, self._emulation.cluster.host(host).netns, port, protocol)
        wanted = {f"{source} {end}" for source, row in expected.items() for end, allowed in row.items() if allowed}
        found = reached(probes, wanted)
        return {source: {end: f"{source} {end}" in found for end in row} for source, row in expected.items()}

    # -- details

    def _get(self, obj: Object) -> Object:
        key = key_of(obj)
        return self._client.get(resource_of(obj), key.namespace, key.name)

    def _relabel(self, kind: str, key: Key, new: dict[str, str]) -> None:
        resource = resource_named(kind)
        value = {**new, NAME_LABEL: key.name} if resource is NAMESPACES else new
        patch = [{"op": "add", "path": "/metadata/labels", "value": value}]
        self._client.patch(
            resource, "" if resource is NAMESPACES else key.namespace, key.name, patch, patch_type="json"
        )

    def _delete(self, objects: Iterable[Object]) -> None:
        for obj in objects:
            key, resource = key_of(obj), resource_of(obj)
            self._client.delete(resource, key.namespace, key.name, grace_seconds=0)
            eventually(lambda r=resource, k=key: self._assert_gone(r, k))  # type: ignore[misc]

    def _assert_gone(self, resource: Resource, key: Key) -> None:
        try:
            self._client.get(resource, key.namespace, key.name)
        except NotFound:
            return
        raise AssertionError(f"{resource.kind} {key} is still there")


def _labels(obj: Object) -> dict[str, str]:
    return {**labels(obj), NAME_LABEL: name_of(obj)} if obj["kind"] == "Namespace" else labels(obj)
