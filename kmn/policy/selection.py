"""Whom selectors select, kept up to date as pods, namespaces and their labels come and go.

A *group* is the set of pods of one :class:`~kmn.policy.model.PodPeer`; equal peers of many policies share it. A change
of one pod asks only groups that could hold it: each group waits under one label that its pods must have (or under its
namespace, or among the few that any pod may join).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, TypeAlias, TypeVar

from kmn.k8s.objects import Key, Object, key_of, labels
from kmn.k8s.selectors import LabelSelector
from kmn.policy.model import PodPeer

__all__ = ["Address", "Changed", "Group", "Member", "Selection", "member_of", "named_ports", "node_member_of"]

Address: TypeAlias = IPv4Address | IPv6Address
K = TypeVar("K")
Item = TypeVar("Item")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Member:
    """A pod as policies see it."""

    key: Key
    labels: dict[str, str]
    addresses: tuple[Address, ...]
    node: str = ""
    ports: tuple[tuple[str, str, int], ...] = ()  # name, protocol, number of named container ports

    def number_of(self, name: str, protocol: str) -> frozenset[tuple[str, int]]:
        """Protocol and number of the ports that the pod calls so. ``protocol`` "" stands for any."""
        return frozenset((p, n) for port, p, n in self.ports if port == name and protocol in ("", p))


def member_of(pod: Object) -> Member | None:
    """None for what no policy concerns: a pod without an address, at its end, or on its node's network."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    if spec.get("hostNetwork") or status.get("phase") in ("Succeeded", "Failed"):
        return None
    texts = [each["ip"] for each in status.get("podIPs") or ()] or [status["podIP"]] if status.get("podIP") else []
    if not texts:
        return None
    addresses = tuple(IPv6Address(text) if ":" in text else IPv4Address(text) for text in texts)
    return Member(key_of(pod), labels(pod), addresses, spec.get("nodeName") or "", named_ports(spec))


def named_ports(spec: Mapping[str, Any]) -> tuple[tuple[str, str, int], ...]:
    """Name, protocol and number of each named container port of a pod's ``spec``."""
    containers = [
        *(each for each in spec.get("initContainers") or () if each.get("restartPolicy") == "Always"),
        *(spec.get("containers") or ()),
    ]
    return tuple(
        (port["name"], port.get("protocol") or "TCP", port["containerPort"])
        for container in containers
        for port in container.get("ports") or ()
        if port.get("name")
    )


def node_member_of(node: Object) -> Member | None:
    """A node as policies see it: nodes are selected by labels as pods are, in a namespace of no name."""
    addresses = [
        each["address"]
        for each in (node.get("status") or {}).get("addresses") or ()
        if each["type"] in ("InternalIP", "ExternalIP")
    ]
    if not addresses:
        return None
    return Member(Key("", node["metadata"]["name"]), labels(node), tuple(map(ip_address, dict.fromkeys(addresses))))


@dataclass(eq=False, slots=True)
class Group:
    """The pods of a peer. Compared by identity; read ``members``, do not change it."""

    peer: PodPeer
    members: dict[Key, Member] = field(default_factory=dict)
    users: int = 0


# Groups whose members changed, and which pods came, changed or went.
Changed: TypeAlias = dict[Group, set[Key]]

# Where a group waits for pods: namespace (None: any), and a label that they must have (None: none in particular).
_Place: TypeAlias = tuple[str | None, tuple[str, str] | None]


class Selection:
    """All pods, namespaces, and the groups in use."""

    def __init__(self) -> None:
        self.members: dict[Key, Member] = {}
        self.namespaces: dict[str, dict[str, str]] = {}
        self._of_namespace: dict[str, dict[Key, Member]] = {}
        self._by_label: dict[tuple[str | None, tuple[str, str]], dict[Key, Member]] = {}
        self._groups: dict[PodPeer, Group] = {}
        self._waiting: dict[_Place, dict[Group, None]] = {}
        # Which namespaces a selector selects; selectors of namespaces are few, and repeat.
        self._selected: dict[LabelSelector, set[str]] = {}
        self._groups_of_selector: dict[LabelSelector, dict[Group, None]] = {}

    # Groups.

    def use(self, peer: PodPeer) -> Group:
        """The group of a peer; to be released as often as it was asked for."""
        group = self._groups.get(peer)
        if group is None:
            group = self._groups[peer] = Group(peer)
            if peer.namespace is None:
                self._select(peer.namespaces)
                self._groups_of_selector.setdefault(peer.namespaces, {})[group] = None
            self._waiting.setdefault(_place(peer), {})[group] = None
            group.members = {member.key: member for member in self._candidates(peer) if self._holds(peer, member)}
        group.users += 1
        return group

    def groups_of(self, key: Key) -> Iterator[Group]:
        """The groups that a pod is in."""
        member = self.members.get(key)
        for place in _places(member) if member is not None else ():
            for group in self._waiting.get(place, ()):
                if key in group.members:
                    yield group

    def release(self, group: Group) -> None:
        """Let go of a group; it is forgotten with its last user."""
        group.users -= 1
        if group.users:
            return
        peer = group.peer
        del self._groups[peer]
        _drop(self._waiting, _place(peer), group)
        if peer.namespace is None:
            _drop(self._groups_of_selector, peer.namespaces, group)
            if peer.namespaces not in self._groups_of_selector:
                del self._selected[peer.namespaces]

    def _select(self, selector: LabelSelector) -> set[str]:
        found = self._selected.get(selector)
        if found is None:
            found = {name for name, its_labels in self.namespaces.items() if selector.matches(its_labels)}
            self._selected[selector] = found
        return found

    def _candidates(self, peer: PodPeer) -> Iterator[Member]:
        label = _anchor(peer.pods)
        if peer.namespace is not None:
            if label is not None:
                yield from self._by_label.get((peer.namespace, label), {}).values()
            else:
                yield from self._of_namespace.get(peer.namespace, {}).values()
        elif label is not None:
            yield from self._by_label.get((None, label), {}).values()
        else:
            for namespace in self._selected[peer.namespaces]:
                yield from self._of_namespace.get(namespace, {}).values()

    def _holds(self, peer: PodPeer, member: Member) -> bool:
        if peer.namespace is None:
            if member.key.namespace not in self._selected[peer.namespaces]:
                return False
        elif member.key.namespace != peer.namespace:
            return False
        return peer.pods.matches(member.labels)

    # Pods.

    def set_member(self, key: Key, member: Member | None) -> Changed:
        """A pod came, changed or (None) went."""
        old = self.members.get(key)
        if old == member:
            return {}
        changed: Changed = {}
        asked: dict[Group, None] = {}
        for each in (old, member):
            if each is not None:
                for place in _places(each):
                    asked |= self._waiting.get(place, {})
        self._index(old, member)
        for group in asked:
            if member is not None and self._holds(group.peer, member):
                group.members[key] = member
                changed[group] = {key}
            elif group.members.pop(key, None) is not None:
                changed[group] = {key}
        return changed

    def _index(self, old: Member | None, new: Member | None) -> None:
        if old is not None:
            namespace = old.key.namespace
            del self.members[old.key]
            _drop(self._of_namespace, namespace, old.key)
            for label in old.labels.items():
                _drop(self._by_label, (namespace, label), old.key)
                _drop(self._by_label, (None, label), old.key)
        if new is not None:
            namespace = new.key.namespace
            self.members[new.key] = new
            self._of_namespace.setdefault(namespace, {})[new.key] = new
            for label in new.labels.items():
                self._by_label.setdefault((namespace, label), {})[new.key] = new
                self._by_label.setdefault((None, label), {})[new.key] = new

    # Namespaces.

    def set_namespace(self, name: str, its_labels: dict[str, str] | None) -> Changed:
        """A namespace came, was labelled anew or (None) went."""
        if self.namespaces.get(name) == its_labels:
            return {}
        if its_labels is None:
            del self.namespaces[name]
        else:
            self.namespaces[name] = its_labels
        changed: Changed = {}
        pods = self._of_namespace.get(name, {})
        for selector, selected in self._selected.items():
            now = its_labels is not None and selector.matches(its_labels)
            if now == (name in selected):
                continue
            (selected.add if now else selected.discard)(name)
            for group in self._groups_of_selector.get(selector, ()):
                for key, member in pods.items():
                    if now and group.peer.pods.matches(member.labels):
                        group.members[key] = member
                    elif group.members.pop(key, None) is None:
                        continue
                    changed.setdefault(group, set()).add(key)
        return changed


def _anchor(selector: LabelSelector) -> tuple[str, str] | None:
    """A label that whatever is selected must have."""
    for requirement in selector.requirements:
        if requirement.operator == "In" and len(requirement.values) == 1:
            return requirement.key, next(iter(requirement.values))
    return None


def _place(peer: PodPeer) -> _Place:
    return peer.namespace, _anchor(peer.pods)


def _places(member: Member) -> Iterable[_Place]:
    """Where groups wait that may hold the pod."""
    for namespace in (member.key.namespace, None):
        yield namespace, None
        for label in member.labels.items():
            yield namespace, label


def _drop(index: dict[K, dict[Item, V]], key: K, item: Item) -> None:
    """Take an item out of a part of an index; empty parts go."""
    items = index[key]
    del items[item]
    if not items:
        del index[key]
