"""The world of the NetworkPolicy cases on a running emulation: the fixture's pods once, each case's objects on top."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from actions import Actions
from emulation import Emulation
from netprobe import Probe, reached
from outside import Servers
from policyworld import NAME_LABEL, Table, filled

from kmn.errors import UserError
from kmn.k8s.objects import Key, Object, key_of, labels, resource_of
from kmn.k8s.resources import PODS

__all__ = ["PolicyCluster"]


class PolicyCluster:
    """``fixture`` stays from case to case; what a case changes of it is put back by the next :meth:`begin`."""

    def __init__(self, emulation: Emulation, servers: Servers) -> None:
        self._emulation = emulation
        self._servers = servers
        self._fixture: list[Object] = []
        self._base = Actions(emulation, servers)
        self._case = Actions(emulation, servers)

    def begin(self, fixture: Iterable[Object]) -> None:
        """Have these objects (and no others of an earlier fixture) before a case."""
        fixture = list(fixture)
        if fixture != self._fixture:
            self._base.clean()
            self._fixture = fixture
        self._base.apply(fixture)
        found = {_text(obj["kind"], key_of(obj)): (labels(obj), labels(self._get(obj))) for obj in fixture}
        changed = {text: wanted for text, (wanted, has) in found.items() if wanted != _without_name(has)}
        self._base.run({"relabel": changed})

    def clean(self) -> None:
        """Take away what the case made."""
        self._case.clean()

    def run(self, step: dict[str, Any], addresses: dict[str, str]) -> bool:
        """One step of a case, until it is in force; whether an object of it was refused."""
        refused = False
        self._case.run({"delete": [_named(each) for each in step.get("delete") or ()]})
        for manifest in step.get("apply") or ():
            try:
                self._case.apply([filled(manifest, addresses)])
            except UserError:
                refused = True
        self._case.run({"relabel": {_named(each): each["labels"] for each in step.get("relabel") or ()}})
        return refused

    def addresses(self) -> dict[str, str]:
        """Of pods as ``x/a``, of outside hosts as ``ext/e1``."""
        pods = {str(key_of(pod)): str(pod["status"]["podIP"]) for pod in self._emulation.client.list(PODS).items}
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

    def _get(self, obj: Object) -> Object:
        key = key_of(obj)
        return self._emulation.client.get(resource_of(obj), key.namespace, key.name)


def _without_name(its_labels: dict[str, str]) -> dict[str, str]:
    """Without the label that the API server gives to each namespace."""
    return {label: value for label, value in its_labels.items() if label != NAME_LABEL}


def _named(each: dict[str, str]) -> str:
    return _text(each["kind"], Key(each.get("namespace", ""), each["name"]))


def _text(kind: str, key: Key) -> str:
    """As :class:`Actions` take it."""
    return f"{kind} {key}"
