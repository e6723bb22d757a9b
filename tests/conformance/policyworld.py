"""The world of the NetworkPolicy cases as objects alone: no cluster, verdicts by ``kmn.policy``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from copy import deepcopy
from ipaddress import ip_address, ip_network
from typing import Any

from kmn.apiserver.admission.defaults import set_defaults
from kmn.apiserver.admission.validation import validate
from kmn.k8s.objects import Key, Object, key_of, labels, resource_of
from kmn.policy.model import network_policy
from kmn.policy.selection import Selection, member_of
from kmn.policy.verdicts import End, Judge

__all__ = ["NAME_LABEL", "PolicyWorld", "Table", "differing", "filled"]

Table = dict[str, dict[str, bool]]  # source: destination: may it?
NAME_LABEL = "kubernetes.io/metadata.name"
_ADDRESS = re.compile(r"\$\{ip:([^}]+)\}")
_NETWORK = re.compile(r"\$\{net:([^}]+)/(\d+)\}")


def filled(value: Any, addresses: dict[str, str]) -> Any:
    """``value`` with ``${ip:x/a}`` and ``${net:x/a/24}`` replaced, however deep."""
    if isinstance(value, dict):
        return {key: filled(item, addresses) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, addresses) for item in value]
    if isinstance(value, str):
        value = _ADDRESS.sub(lambda found: addresses[found[1]], value)
        return _NETWORK.sub(lambda found: str(ip_network(f"{addresses[found[1]]}/{found[2]}", strict=False)), value)
    return value


def differing(found: Table, expected: Table, case: dict[str, Any]) -> dict[str, bool]:
    """Cells that are not as expected, with what is found there. A pod and itself count where the case says so."""
    return {
        f"{source} -> {destination}": found[source][destination]
        for source, row in expected.items()
        for destination, allowed in row.items()
        if found[source][destination] != allowed and (source != destination or case.get("check_self"))
    }


class PolicyWorld:
    """Objects in, tables out. ``addresses``: of pods (``x/a``), ``external`` of hosts outside."""

    def __init__(self, addresses: dict[str, str], external: dict[str, str]) -> None:
        self.judge = Judge(Selection())
        self._addresses = addresses
        self._external = external
        self._objects: dict[tuple[str, Key], Object] = {}

    def apply(self, manifest: Object) -> list[str]:
        """Take an object as the API server would; what is wrong with it, if it would not."""
        obj = deepcopy(filled(manifest, {**self._external, **self._addresses}))
        kind = obj["kind"]
        if kind == "Service":
            return []
        if kind != "Namespace":
            obj["metadata"].setdefault("namespace", "default")
        set_defaults(obj)
        errors = validate(resource_of(obj), obj, None)
        if errors:
            return [str(error) for error in errors]
        key = key_of(obj)
        if kind == "Namespace":
            obj["metadata"].setdefault("labels", {})[NAME_LABEL] = key.name
            self.judge.selection.set_namespace(key.name, labels(obj))
        else:
            self._namespace(key.namespace)
        if kind == "Pod":
            address = self._addresses.setdefault(str(key), f"10.244.9.{40 + len(self._addresses)}")
            obj["status"] = {"phase": "Running", "podIP": address}
            self.judge.selection.set_member(key, member_of(obj))
        elif kind == "NetworkPolicy":
            self.judge.set_policy(network_policy(obj))
        self._objects[kind, key] = obj
        return []

    def _namespace(self, name: str) -> None:
        if name not in self.judge.selection.namespaces:
            self.judge.selection.set_namespace(name, {NAME_LABEL: name})

    def delete(self, kind: str, key: Key) -> None:
        if kind == "Namespace":
            for its_kind, its_key in [each for each in self._objects if each[1].namespace == key.name]:
                self.delete(its_kind, its_key)
            self.judge.selection.set_namespace(key.name, None)
        elif kind == "Pod":
            self.judge.selection.set_member(key, None)
        elif kind == "NetworkPolicy":
            self.judge.remove_policy(kind, key)
        del self._objects[kind, key]

    def relabel(self, kind: str, key: Key, new: dict[str, str]) -> None:
        obj = deepcopy(self._objects[kind, key])
        obj["metadata"]["labels"] = new
        self.apply(obj)

    def run(self, step: dict[str, Any]) -> list[str]:
        """One step of a case; why objects of it were refused."""
        for each in step.get("delete") or ():
            self.delete(each["kind"], Key(each.get("namespace", ""), each["name"]))
        wrong = [reason for manifest in step.get("apply") or () for reason in self.apply(manifest)]
        for each in step.get("relabel") or ():
            self.relabel(each["kind"], Key(each.get("namespace", ""), each["name"]), each["labels"])
        return wrong

    def table(self, protocol: str, port: int, sources: Iterable[str], destinations: Iterable[str]) -> Table:
        """May each source connect to each destination?"""
        ends = list(destinations)
        return {
            source: {each: self.judge.judge(self.end(source), self.end(each), protocol, port).allowed for each in ends}
            for source in sources
        }

    def end(self, name: str) -> End:
        """The pod ``x/a``, or the address of a host outside."""
        if name in self._external:
            return ip_address(self._external[name])
        namespace, _, pod = name.partition("/")
        return self.judge.selection.members[Key(namespace, pod)]
