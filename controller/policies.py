"""What NetworkPolicies mean for nodes' bridges, kept up to date object by object. Pure, as ``cluster``.

A node has flows of a rule only while a pod is on it that the rule is about. A change of one pod touches the groups that
it joins, leaves or is in, once each, and of the flows only those of its own addresses and port.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from controller.desired import Scope
from controller.family import V4, V6, Family
from controller.features.policy import (
    RULES_OF_A_FLOW,
    WAYS,
    Way,
    dimensions,
    isolation_flow,
    plain_flow,
    port_matches,
    rule_owner,
    self_flow,
    shared_flow,
    verdict_flow,
)
from controller.group_numbers import GroupNumbers
from controller.openflow.cookie import Owner
from controller.openflow.flow import Flow
from controller.openflow.match import Match, match
from controller.podsets import NOWHERE, Filter, Place, PodSet, Whereabouts
from controller.shards import Shards
from kmn.k8s.objects import Key, Object
from kmn.k8s.selectors import EVERYTHING
from kmn.policy.model import Block, Direction, NamedPort, Network, PodPeer, Policy, PortRange, Rule
from kmn.policy.selection import Changed, Group, Selection, member_of

__all__ = ["Policies"]

_ANY_POD = PodPeer(None, EVERYTHING, EVERYTHING)
# A rule's part in a flow that many rules share: its number, which of its dimensions, of how many.
_Part = tuple[int, int, int]
# Where such flows are that can be the same one: the way, the node, whose rules share them.
_Sharing = tuple[Way, str, int]


@dataclass(eq=False, slots=True)
class _Atom:
    """A rule; of a rule with named ports the part of it in which the names mean one number."""

    owner: Owner
    way: Way
    number: int
    subject: PodSet
    peers: tuple[PodSet, ...] | None  # None: whoever the other end is
    networks: tuple[Match, ...]
    ports: tuple[Match, ...] | None
    shard: int
    dimensions: tuple[int, int, int]
    nodes: dict[str, int] = field(default_factory=dict)  # that have its flows: how many pods it is about there

    @property
    def plain(self) -> bool:
        """Everything is allowed: no conjunction is needed."""
        return self.peers is None and self.ports is None


@dataclass(eq=False, slots=True)
class _Programmed:
    """A policy as it was computed last."""

    sets: list[PodSet] = field(default_factory=list)  # in use; as often as they were asked for
    groups: list[Group] = field(default_factory=list)
    isolated: list[tuple[Way, PodSet]] = field(default_factory=list)
    atoms: list[_Atom] = field(default_factory=list)
    # What named ports mean among the pods of a group.
    names: dict[tuple[Group, NamedPort], frozenset[tuple[str, int]]] = field(default_factory=dict)


class Policies:
    """All pods, namespaces and policies. ``scope_of`` gives a node's scope."""

    def __init__(self, scope_of: Callable[[str], Scope]) -> None:
        self._scope_of = scope_of
        self._selection = Selection()
        self._places: dict[Key, Place] = {}
        self._policies: dict[Key, Policy] = {}
        self._programmed: dict[Key, _Programmed] = {}
        self._changed_policies: dict[Key, None] = {}
        self._changed: Changed = {}
        self._numbers = GroupNumbers()
        self._shards = Shards(RULES_OF_A_FLOW)
        self._families: tuple[Family, ...] = (V4,)  # that pods have
        # Sets in use, and who uses them.
        self._sets: dict[tuple[Group, Filter | None], PodSet] = {}
        self._uses: dict[PodSet, int] = {}
        self._sets_of: dict[Group, dict[PodSet, None]] = {}
        self._about: dict[PodSet, dict[_Atom, None]] = {}
        self._peers: dict[PodSet, dict[_Atom, None]] = {}
        self._isolating: dict[PodSet, dict[Way, int]] = {}  # and for how many policies
        self._naming: dict[Group, dict[Key, None]] = {}  # policies with named ports that a group's pods have
        # What follows.
        self._isolated: dict[tuple[Way, Key], tuple[Whereabouts, int]] = {}  # by how many policies
        # By packed match, each part with for how many reasons.
        self._shared: dict[_Sharing, dict[bytes, dict[_Part, int]]] = {}
        self._changed_flows: dict[_Sharing, dict[bytes, Match]] = {}

    # What happens.

    def put_pod(self, key: Key, obj: Object | None, place: Place | None) -> None:
        """A pod came, changed or (None) went. ``place`` is None for one that has no port on a bridge."""
        moved = self._places.get(key) != place
        if place is None:
            self._places.pop(key, None)
        else:
            self._places[key] = place
        member = member_of(obj) if obj is not None else None
        if member is not None and V6 not in self._families and any(each.version == 6 for each in member.addresses):
            self._families = (V4, V6)
            self._changed_policies |= dict.fromkeys(self._programmed)
        changed = self._selection.set_member(key, member)
        if moved:
            changed |= {group: {key} for group in self._sets_of if key in group.members}
        self._note(changed)

    def put_namespace(self, name: str, its_labels: dict[str, str] | None) -> None:
        """A namespace came, was labelled anew or (None) went."""
        if its_labels is not None or name in self._selection.namespaces:
            self._note(self._selection.set_namespace(name, its_labels))

    def put_policy(self, key: Key, policy: Policy | None) -> None:
        """A policy came, changed or (None) went."""
        if self._policies.get(key) == policy:
            return
        if policy is None:
            del self._policies[key]
        else:
            self._policies[key] = policy
        self._changed_policies[key] = None

    def _note(self, changed: Changed) -> None:
        for group, keys in changed.items():
            self._changed.setdefault(group, set()).update(keys)

    def known(self, resource: str) -> list[Key]:
        """Keys of the objects of a resource that are there."""
        match resource:
            case "pods":
                return list({**self._selection.members, **self._places})
            case "namespaces":
                return [Key("", name) for name in self._selection.namespaces]
            case "networkpolicies":
                return list(self._policies)
        return []

    # What follows.

    def compute(self) -> None:
        """Bring the nodes' scopes up to date."""
        policies, self._changed_policies = self._changed_policies, {}
        changed, self._changed = self._changed, {}
        for group in changed:
            for key in self._naming.get(group, ()):
                names = self._programmed[key].names
                if any(_meanings(g, port) != known for (g, port), known in names.items() if g is group):
                    policies[key] = None
        for key in policies:
            self._program(key, self._policies.get(key))
        for group, keys in changed.items():
            for pods in self._sets_of.get(group, ()):
                self._move(pods, pods.update(keys))
        self._flush()

    def _program(self, key: Key, policy: Policy | None) -> None:
        old = self._programmed.pop(key, None)
        if old is not None:
            self._unmake(key, old)
        if policy is None:
            self._numbers.assign(key, ())
            return
        made = self._programmed[key] = self._made(policy)
        for group, _ in made.names:
            self._naming.setdefault(group, {})[key] = None

    def _made(self, policy: Policy) -> _Programmed:
        made = _Programmed()
        subject = self._group(made, policy.subject)
        parts: list[tuple[str, Way, Rule, tuple[PortRange, ...] | None, Filter | None, Filter | None]] = []
        for direction, way in WAYS.items():
            rules = policy.rules(direction)
            if rules is None:
                continue
            pods = self._set(made, subject, None)
            made.isolated.append((way, pods))
            ways = self._isolating.setdefault(pods, {})
            ways[way] = ways.get(way, 0) + 1
            if ways[way] == 1:
                for pod, whereabouts in pods.pods.items():
                    self._isolate(way, pod, NOWHERE, whereabouts)
            for rule in rules:
                parts += self._parts(made, way, rule, subject)
        # Names that no other policy has: numbers then are the same after a restart, in whatever order policies come.
        numbers = self._numbers.assign(policy.key, [f"{policy} {name}" for name, *_ in parts])
        for name, way, rule, ports, about, towards in parts:
            peers = self._peer_sets(made, rule, towards)
            atom = _Atom(
                rule_owner(policy, rule),
                way,
                numbers[f"{policy} {name}"],
                self._set(made, subject, about),
                peers,
                tuple(map(way.of_peer, _networks(rule))) if towards is None else (),
                tuple(port_matches(ports, self._families)) if ports is not None else None,
                self._shards.take(),
                dimensions(peers=peers is not None, ports=ports is not None),
            )
            made.atoms.append(atom)
            self._add(atom)
        return made

    def _parts(
        self, made: _Programmed, way: Way, rule: Rule, subject: Group
    ) -> Iterator[tuple[str, Way, Rule, tuple[PortRange, ...] | None, Filter | None, Filter | None]]:
        """A rule's ports; where they have names, one part for each number that a name means.

        Names are of the destination's pods: of those that an ingress rule is about, or of an egress rule's peers.
        """
        if rule.ports is None:
            yield f"{rule.name}", way, rule, None, None, None
            return
        ranges = tuple(port for port in rule.ports if isinstance(port, PortRange))
        if ranges:
            yield f"{rule.name}", way, rule, ranges, None, None
        for port in rule.ports:
            if not isinstance(port, NamedPort):
                continue
            groups = [subject] if way.direction is Direction.INGRESS else self._named_peers(made, rule)
            meant: set[tuple[str, int]] = set()
            for group in groups:
                made.names[group, port] = _meanings(group, port)
                meant |= made.names[group, port]
            for protocol, number in sorted(meant):
                only = Filter(port, protocol, number)
                name = f"{rule.name} {port.name}={number}/{protocol}"
                ports = (PortRange(protocol, number, number),)
                if way.direction is Direction.INGRESS:
                    yield name, way, rule, ports, only, None
                else:
                    yield name, way, rule, ports, None, only

    def _named_peers(self, made: _Programmed, rule: Rule) -> list[Group]:
        """Groups of the pods whose port names an egress rule may mean."""
        if rule.peers is None or any(isinstance(peer, Block) for peer in rule.peers):
            return [self._group(made, _ANY_POD)]
        return [self._group(made, peer) for peer in rule.peers if isinstance(peer, PodPeer)]

    def _peer_sets(self, made: _Programmed, rule: Rule, only: Filter | None) -> tuple[PodSet, ...] | None:
        """``only``: of an egress rule the pods that call a port so; no other address has names for ports."""
        if rule.peers is None:
            return None if only is None else (self._set(made, self._group(made, _ANY_POD), only),)
        sets = [self._set(made, self._group(made, peer), only) for peer in rule.peers if isinstance(peer, PodPeer)]
        blocks = tuple(peer for peer in rule.peers if isinstance(peer, Block))
        if only is not None and blocks:
            sets.append(self._set(made, self._group(made, _ANY_POD), only._replace(blocks=blocks)))
        return tuple(sets)

    # Groups and sets in use.

    def _group(self, made: _Programmed, peer: PodPeer) -> Group:
        group = self._selection.use(peer)
        made.groups.append(group)
        return group

    def _set(self, made: _Programmed, group: Group, only: Filter | None) -> PodSet:
        pods = self._sets.get((group, only))
        if pods is None:
            pods = self._sets[group, only] = PodSet(group, only, self._places.get)
            self._sets_of.setdefault(group, {})[pods] = None
            self._uses[pods] = 0
        self._uses[pods] += 1
        made.sets.append(pods)
        return pods

    def _unmake(self, key: Key, old: _Programmed) -> None:
        for group, _ in old.names:
            self._naming.get(group, {}).pop(key, None)
        for atom in old.atoms:
            self._remove(atom)
        for way, pods in old.isolated:
            ways = self._isolating[pods]
            ways[way] -= 1
            if not ways[way]:
                del ways[way]
                for pod, whereabouts in pods.pods.items():
                    self._isolate(way, pod, whereabouts, NOWHERE)
        for pods in old.sets:
            self._uses[pods] -= 1
            if not self._uses[pods]:
                del self._uses[pods], self._sets[pods.group, pods.only], self._sets_of[pods.group][pods]
                for index in (self._about, self._peers, self._isolating):
                    index.pop(pods, None)
                if not self._sets_of[pods.group]:
                    del self._sets_of[pods.group]
        for group in old.groups:
            self._selection.release(group)

    # Rules and their flows.

    def _add(self, atom: _Atom) -> None:
        self._about.setdefault(atom.subject, {})[atom] = None
        for pods in atom.peers or ():
            self._peers.setdefault(pods, {})[atom] = None
        for whereabouts in atom.subject.pods.values():
            self._concern(atom, NOWHERE, whereabouts)

    def _remove(self, atom: _Atom) -> None:
        for whereabouts in atom.subject.pods.values():
            self._concern(atom, whereabouts, NOWHERE)
        self._shards.release(atom.shard)
        del self._about[atom.subject][atom]
        for pods in dict.fromkeys(atom.peers or ()):
            del self._peers[pods][atom]

    def _move(self, pods: PodSet, changes: Sequence[tuple[Key, Whereabouts, Whereabouts]]) -> None:
        """Pods of a set in use came, went, or are elsewhere."""
        # Peers first, where rules have flows already: a node that a rule comes to gets all peers as they are now.
        gone = [address for _, before, now in changes for address in before.addresses - now.addresses]
        come = [address for _, before, now in changes for address in now.addresses - before.addresses]
        matches = {way: (list(map(way.of_peer, gone)), list(map(way.of_peer, come))) for way in WAYS.values()}
        for atom in self._peers.get(pods, ()):
            for node in atom.nodes:
                for wanted, change in zip(matches[atom.way], (-1, +1), strict=True):
                    if wanted:
                        self._share(atom, node, wanted, atom.dimensions[1], change)
        for pod, before, now in changes:
            for way in self._isolating.get(pods, ()):
                self._isolate(way, pod, before, now)
            for atom in self._about.get(pods, ()):
                self._concern(atom, before, now)

    def _concern(self, atom: _Atom, before: Whereabouts, now: Whereabouts) -> None:
        """A pod that a rule is about came, went, or is elsewhere."""
        if before.place == now.place:
            return
        for place, change in ((now.place, +1), (before.place, -1)):
            if place is None:
                continue
            node, ofport = place
            if change > 0 and node not in atom.nodes:
                self._appear(atom, node, +1)
            if atom.plain:
                owner = ("NetworkPolicy", f"{atom.number} {atom.way.direction.value}", str(ofport))
                flows = [plain_flow(atom.way, atom.owner, atom.number, ofport)] if change > 0 else []
                self._scope_of(node).contribute(owner, flows)
            else:
                self._share(atom, node, [match(atom.way.of_pod(ofport))], atom.dimensions[0], change)
            atom.nodes[node] = atom.nodes.get(node, 0) + change
            if not atom.nodes[node]:
                del atom.nodes[node]
                self._appear(atom, node, -1)

    def _appear(self, atom: _Atom, node: str, change: int) -> None:
        """A node gets (or loses) what a rule has there besides its pods: peers, ports, and the verdict."""
        if atom.plain:
            return
        _, of_peers, of_ports = atom.dimensions
        for pods in atom.peers or ():
            self._share(atom, node, pods.of_addresses(atom.way.of_peer), of_peers, change)
        self._share(atom, node, atom.networks, of_peers, change)
        self._share(atom, node, atom.ports or (), of_ports, change)
        flows = [verdict_flow(atom.way, atom.owner, atom.number)] if change > 0 else []
        self._scope_of(node).contribute(("NetworkPolicy", atom.way.direction.value, str(atom.number)), flows)

    def _share(self, atom: _Atom, node: str, matches: Iterable[Match], dimension: int, change: int) -> None:
        """Matches become (``change`` 1) or are no more (-1) part of a dimension of a rule."""
        sharing, part = (atom.way, node, atom.shard), (atom.number, dimension, max(atom.dimensions))
        flows = self._shared.setdefault(sharing, {})
        changed = self._changed_flows.setdefault(sharing, {})
        for wanted in matches:
            packed = wanted.packed
            parts = flows.get(packed)
            if parts is None:
                parts = flows[packed] = {}
            parts[part] = parts.get(part, 0) + change
            if not parts[part]:
                del parts[part]
            changed[packed] = wanted

    def _isolate(self, way: Way, pod: Key, before: Whereabouts, now: Whereabouts) -> None:
        """A policy isolates a pod (``now``) or does so no more (``before``)."""
        old, count = self._isolated.get((way, pod), (NOWHERE, 0))
        count += (now != NOWHERE) - (before != NOWHERE)
        if count:
            self._isolated[way, pod] = (now if now != NOWHERE else old, count)
        else:
            del self._isolated[way, pod]
        where = self._isolated.get((way, pod), (NOWHERE, 0))[0]
        owner = ("Isolated", way.direction.value, str(pod))
        if old.place is not None and (where.place is None or old.place.node != where.place.node):
            self._scope_of(old.place.node).contribute(owner)
        if where.place is not None:
            self._scope_of(where.place.node).contribute(owner, _isolation(way, pod, where))

    def _flush(self) -> None:
        for sharing, changed in self._changed_flows.items():
            (way, node, shard), flows = sharing, self._shared[sharing]
            scope = self._scope_of(node)
            for packed, wanted in changed.items():
                parts = flows[packed]
                flow = shared_flow(way, shard, wanted, parts)
                if parts:
                    scope.put(flow)
                else:
                    scope.remove(flow)
                    del flows[packed]
            if not flows:
                del self._shared[sharing]
        self._changed_flows.clear()


def _isolation(way: Way, pod: Key, where: Whereabouts) -> Iterator[Flow]:
    assert where.place is not None
    yield isolation_flow(way, str(pod), where.place.ofport)
    if way.direction is Direction.EGRESS:
        for address in where.addresses:
            yield self_flow(str(pod), where.place.ofport, address)


def _networks(rule: Rule) -> tuple[Network, ...]:
    return tuple(network for peer in rule.peers or () if isinstance(peer, Block) for network in peer.networks())


def _meanings(group: Group, port: NamedPort) -> frozenset[tuple[str, int]]:
    """Protocols and numbers that a group's pods have for a name."""
    return frozenset[tuple[str, int]]().union(
        *(member.number_of(port.name, port.protocol) for member in group.members.values())
    )
