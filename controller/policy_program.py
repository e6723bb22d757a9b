"""The flows of policies on nodes' bridges: which rules, of which tier, about which pods, and what changes when pods do.

A node has flows of a rule only while a pod is on it that the rule is about. A change of one pod touches the groups that
it joins, leaves or is in, once each, and of the flows only those of its own addresses and port.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from controller.desired import Scope
from controller.family import Family
from controller.features.policy import (
    HIGHEST,
    RULES_OF_A_FLOW,
    Way,
    Ways,
    count_flow,
    dimensions,
    isolation_flow,
    plain_flow,
    port_matches,
    priority_of,
    rule_owner,
    self_flow,
    shard_of,
    shared_flow,
    verdict_flow,
)
from controller.numbering import Numbering
from controller.openflow.cookie import Owner
from controller.openflow.flow import Flow
from controller.openflow.match import Match, match
from controller.ordering import arrange
from controller.podsets import NOWHERE, Filter, Place, PodSet, Whereabouts
from controller.shards import Shards
from kmn.k8s.objects import Key
from kmn.k8s.selectors import EVERYTHING
from kmn.policy.model import Action, Block, Direction, Log, NamedPort, Network, PodPeer, Policy, PortRange, Rule, Tier
from kmn.policy.selection import Changed, Group, Selection
from kmn.policy.verdicts import rank

__all__ = ["PolicyKey", "Program", "Settings"]

LOG = logging.getLogger(__name__)

_ANY_POD = PodPeer(None, EVERYTHING, EVERYTHING)
# A rule's part in a flow that many rules share: its number, which of its dimensions, of how many.
_Part = tuple[int, int, int]
# Where such flows are that can be the same one: the way, the node, the priority.
_Sharing = tuple[Way, str, int]


class PolicyKey(NamedTuple):
    """A policy of any kind."""

    kind: str
    key: Key


class Settings(NamedTuple):
    """What holds for all policies. ``families``: those that pods have."""

    families: tuple[Family, ...]
    log: Log


@dataclass(eq=False, slots=True)
class _Atom:
    """A rule; of a rule with named ports the part of it in which the names mean one number."""

    owner: Owner
    way: Way
    priority: int
    action: Action
    number: int
    subject: PodSet
    peers: tuple[PodSet, ...] | None  # None: whoever the other end is
    networks: tuple[Match, ...]
    ports: tuple[Match, ...] | None
    dimensions: tuple[int, int, int]
    nodes: dict[str, int] = field(default_factory=dict)  # that have its flows: how many pods it is about there

    @property
    def plain(self) -> bool:
        """Everything is meant: no conjunction is needed."""
        return self.peers is None and self.ports is None

    @property
    def counted(self) -> bool:
        """Whether packets of connections are counted for it."""
        return self.action is Action.ALLOW and not self.way.staged


class _Marks:
    """Flows that a pod has while at least one policy asks for them."""

    def __init__(
        self, scope_of: Callable[[str], Scope], name: str, make: Callable[[Key, Whereabouts], Iterable[Flow]]
    ) -> None:
        self._scope_of = scope_of
        self._name = name
        self._make = make
        self._pods: dict[Key, tuple[Whereabouts, int]] = {}  # and for how many policies

    def move(self, pod: Key, before: Whereabouts, now: Whereabouts) -> None:
        """A policy begins to ask for a pod's (``now``), or does so no more (``before``), or the pod has moved."""
        old, count = self._pods.get(pod, (NOWHERE, 0))
        count += (now != NOWHERE) - (before != NOWHERE)
        if count:
            self._pods[pod] = (now if now != NOWHERE else old, count)
        else:
            del self._pods[pod]
        where = self._pods.get(pod, (NOWHERE, 0))[0]
        owner = (self._name, "", str(pod))
        if old.place is not None and (where.place is None or old.place.node != where.place.node):
            self._scope_of(old.place.node).contribute(owner)
        if where.place is not None:
            self._scope_of(where.place.node).contribute(owner, self._make(pod, where))


@dataclass(eq=False, slots=True)
class _Programmed:
    """A policy as it was computed last."""

    sets: list[PodSet] = field(default_factory=list)  # in use; as often as they were asked for
    groups: list[Group] = field(default_factory=list)
    marks: list[tuple[_Marks, PodSet]] = field(default_factory=list)
    atoms: list[_Atom] = field(default_factory=list)
    # What named ports mean among the pods of a group.
    names: dict[tuple[Group, NamedPort], frozenset[tuple[str, int]]] = field(default_factory=dict)


class Program:
    """Policies that are in force together, in the tables of ``ways``.

    ``selection`` says whom they select, ``place_of`` where a pod is, ``scope_of`` gives a node's scope; ``numbers``
    are those of conjunctions, one set for all tables.
    """

    def __init__(
        self,
        ways: Ways,
        selection: Selection,
        place_of: Callable[[Key], Place | None],
        scope_of: Callable[[str], Scope],
        numbers: Numbering,
    ) -> None:
        self._ways = ways
        self._selection = selection
        self._place_of = place_of
        self._scope_of = scope_of
        self._numbers = numbers
        self._settings = Settings((), Log.NONE)
        self._policies: dict[PolicyKey, Policy] = {}
        self._programmed: dict[PolicyKey, _Programmed] = {}
        # Of tiers that have an order: their policies, and the priority of each one's first rule.
        self._ordered: dict[Tier, dict[PolicyKey, Policy]] = {Tier.ADMIN: {}, Tier.BASELINE: {}}
        self._places: dict[Tier, dict[PolicyKey, int]] = {tier: {} for tier in Tier}
        # Sets in use, and who uses them.
        self._sets: dict[tuple[Group, Filter | None], PodSet] = {}
        self._uses: dict[PodSet, int] = {}
        self._sets_of: dict[Group, dict[PodSet, None]] = {}
        self._about: dict[PodSet, dict[_Atom, None]] = {}
        self._peers: dict[PodSet, dict[_Atom, None]] = {}
        self._marking: dict[PodSet, list[_Marks]] = {}
        self._naming: dict[Group, dict[PolicyKey, None]] = {}  # policies with named ports that a group's pods have
        # What follows.
        first = ways[Direction.EGRESS, Tier.ADMIN]
        self._name = first.table.name
        self._selves = _Marks(scope_of, f"Self {self._name}", lambda pod, where: _selves(first, pod, where))
        self._isolated = {
            direction: _Marks(scope_of, f"Isolated {way.table.name}", self._isolation(way))
            for (direction, tier), way in ways.items()
            if tier is Tier.NETWORK_POLICY
        }
        # Shared flows by packed match: their parts, each for how many reasons.
        self._shared: dict[_Sharing, dict[bytes, dict[_Part, int]]] = {}
        self._changed_flows: dict[_Sharing, dict[bytes, Match]] = {}
        self._shards = Shards(RULES_OF_A_FLOW)

    def compute(self, policies: Mapping[PolicyKey, Policy | None], changed: Changed, settings: Settings) -> None:
        """Bring the nodes' scopes up to date: policies came, changed or (None) went; groups have changed."""
        changes: dict[PolicyKey, Policy | None] = {}
        if settings != self._settings:
            self._settings = settings
            changes |= self._policies
        for group in changed:
            for key in self._naming.get(group, ()):
                names = self._programmed[key].names
                if any(_meanings(g, port) != known for (g, port), known in names.items() if g is group):
                    changes[key] = self._policies[key]
        changes |= policies
        changes |= self._reorder(changes)
        for key, policy in changes.items():
            self._program(key, policy)
        for group, keys in changed.items():
            for pods in self._sets_of.get(group, ()):
                self._move(pods, pods.update(keys))
        self._flush()

    def _reorder(self, changes: Mapping[PolicyKey, Policy | None]) -> dict[PolicyKey, Policy]:
        """Place the policies of tiers that have an order; those whose place has changed."""
        moved: dict[PolicyKey, Policy] = {}
        for tier, members in self._ordered.items():
            before = {
                key: members.pop(key, None)
                for key, policy in changes.items()
                if key in members or (policy is not None and policy.tier is tier)
            }
            if not before:
                continue
            members |= {key: policy for key in before if (policy := changes[key]) is not None and policy.tier is tier}
            stays = {
                key
                for key in members
                if key not in before or _rank_and_size(before[key]) == _rank_and_size(members[key])
            }
            kept = {key: place for key, place in self._places[tier].items() if key in stays}
            ranked = sorted(members, key=lambda key: rank(members[key]))
            places = arrange(kept, _fitting([(key, _size(members[key])) for key in ranked]), HIGHEST)
            moved |= {key: members[key] for key, place in places.items() if self._places[tier].get(key) != place}
            self._places[tier] = places
        return moved

    def _program(self, key: PolicyKey, policy: Policy | None) -> None:
        old = self._programmed.pop(key, None)
        if old is not None:
            self._unmake(key, old)
        if policy is None:
            self._policies.pop(key, None)
            self._numbers.assign((key, self._name), ())
            return
        self._policies[key] = policy
        made = self._programmed[key] = self._made(key, policy)
        for group, _ in made.names:
            self._naming.setdefault(group, {})[key] = None

    def _made(self, key: PolicyKey, policy: Policy) -> _Programmed:
        made = _Programmed()
        subject = self._group(made, policy.subject)
        parts: list[_RulePart] = []
        for direction in Direction:
            way, rules = self._ways[direction, policy.tier], policy.rules(direction)
            if rules is None:
                continue
            if policy.isolates:
                self._mark(made, self._isolated[direction], subject)
            if direction is Direction.EGRESS and (rules or policy.isolates):
                self._mark(made, self._selves, subject)
            highest = self._places[policy.tier].get(key, 0)
            if not policy.isolates and not highest:
                continue  # there was no place for it
            for index, rule in enumerate(rules):
                parts += self._parts(made, way, highest - index, rule, subject)
        prefix = f"{policy.kind}/{policy.key}{' staged' if parts and parts[0].way.staged else ''}"
        names = [f"{prefix} {part.name}" for part in parts]
        numbers = self._numbers.assign((key, self._name), names)
        for name, part in zip(names, parts, strict=True):
            rule = part.rule
            peers = self._peer_sets(made, rule, part.towards)
            atom = _Atom(
                rule_owner(policy, rule),
                part.way,
                priority_of(self._shards.take()) if policy.isolates else part.order,
                rule.action,
                numbers[name],
                self._set(made, subject, part.about),
                peers,
                tuple(map(part.way.of_peer, _networks(rule))) if part.towards is None else (),
                tuple(port_matches(part.ports, self._settings.families)) if part.ports is not None else None,
                dimensions(peers=peers is not None, ports=part.ports is not None),
            )
            made.atoms.append(atom)
            self._add(atom)
        return made

    def _mark(self, made: _Programmed, marks: _Marks, subject: Group) -> None:
        pods = self._set(made, subject, None)
        made.marks.append((marks, pods))
        self._marking.setdefault(pods, []).append(marks)
        for pod, whereabouts in pods.pods.items():
            marks.move(pod, NOWHERE, whereabouts)

    def _parts(self, made: _Programmed, way: Way, order: int, rule: Rule, subject: Group) -> Iterator[_RulePart]:
        """A rule's ports; where they have names, one part for each number that a name means.

        Names are of the destination's pods: of those that an ingress rule is about, or of an egress rule's peers.
        """
        if rule.ports is None:
            yield _RulePart(rule.name, way, order, rule)
            return
        ranges = tuple(port for port in rule.ports if isinstance(port, PortRange))
        if ranges:
            yield _RulePart(rule.name, way, order, rule, ranges)
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
                    yield _RulePart(name, way, order, rule, ports, about=only)
                else:
                    yield _RulePart(name, way, order, rule, ports, towards=only)

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
            pods = self._sets[group, only] = PodSet(group, only, self._place_of)
            self._sets_of.setdefault(group, {})[pods] = None
            self._uses[pods] = 0
        self._uses[pods] += 1
        made.sets.append(pods)
        return pods

    def _unmake(self, key: PolicyKey, old: _Programmed) -> None:
        for group, _ in old.names:
            self._naming.get(group, {}).pop(key, None)
        for atom in old.atoms:
            self._remove(atom)
        for marks, pods in old.marks:
            self._marking[pods].remove(marks)
            for pod, whereabouts in pods.pods.items():
                marks.move(pod, whereabouts, NOWHERE)
        for pods in old.sets:
            self._uses[pods] -= 1
            if not self._uses[pods]:
                del self._uses[pods], self._sets[pods.group, pods.only], self._sets_of[pods.group][pods]
                for index in (self._about, self._peers, self._marking):
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
        if atom.way.tier is Tier.NETWORK_POLICY:
            self._shards.release(shard_of(atom.priority))
        del self._about[atom.subject][atom]
        for pods in dict.fromkeys(atom.peers or ()):
            del self._peers[pods][atom]

    def _move(self, pods: PodSet, changes: Sequence[tuple[Key, Whereabouts, Whereabouts]]) -> None:
        """Pods of a set in use came, went, or are elsewhere."""
        # Peers first, where rules have flows already: a node that a rule comes to gets all peers as they are now.
        gone = [address for _, before, now in changes for address in before.addresses - now.addresses]
        come = [address for _, before, now in changes for address in now.addresses - before.addresses]
        matches = {way: (list(map(way.of_peer, gone)), list(map(way.of_peer, come))) for way in self._ways.values()}
        for atom in self._peers.get(pods, ()):
            for node in atom.nodes:
                for wanted, change in zip(matches[atom.way], (-1, +1), strict=True):
                    if wanted:
                        self._share(atom, node, wanted, atom.dimensions[1], change)
        for pod, before, now in changes:
            for marks in self._marking.get(pods, ()):
                marks.move(pod, before, now)
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
                owner = ("NetworkPolicy", f"{atom.number} {atom.way.table.name}", str(ofport))
                self._scope_of(node).contribute(owner, [self._plain(atom, ofport)] if change > 0 else [])
            else:
                self._share(atom, node, [match(atom.way.of_pod(ofport))], atom.dimensions[0], change)
            atom.nodes[node] = atom.nodes.get(node, 0) + change
            if not atom.nodes[node]:
                del atom.nodes[node]
                self._appear(atom, node, -1)

    def _plain(self, atom: _Atom, ofport: int) -> Flow:
        log = self._settings.log
        return plain_flow(atom.way, atom.owner, atom.priority, atom.action, atom.number, log, ofport)

    def _appear(self, atom: _Atom, node: str, change: int) -> None:
        """A node gets (or loses) what a rule has there besides its pods: peers, ports, the verdict, and its count."""
        _, of_peers, of_ports = atom.dimensions
        for pods in atom.peers or ():
            self._share(atom, node, pods.of_addresses(atom.way.of_peer), of_peers, change)
        self._share(atom, node, atom.networks, of_peers, change)
        self._share(atom, node, atom.ports or (), of_ports, change)
        flows: list[Flow] = []
        if change > 0 and not atom.plain:
            log = self._settings.log
            flows.append(verdict_flow(atom.way, atom.owner, atom.priority, atom.action, atom.number, log))
        if change > 0 and atom.counted:
            flows.append(count_flow(atom.way, atom.owner, atom.number))
        self._scope_of(node).contribute(("NetworkPolicy", atom.way.table.name, str(atom.number)), flows)

    def _share(self, atom: _Atom, node: str, matches: Sequence[Match], dimension: int, change: int) -> None:
        """Matches become (``change`` 1) or are no more (-1) part of a dimension of a rule."""
        if not matches:
            return
        sharing, part = (atom.way, node, atom.priority), (atom.number, dimension, max(atom.dimensions))
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

    def _isolation(self, way: Way) -> Callable[[Key, Whereabouts], Iterable[Flow]]:
        def make(pod: Key, where: Whereabouts) -> Iterator[Flow]:
            assert where.place is not None
            yield isolation_flow(way, str(pod), where.place.ofport, self._settings.log)

        return make

    def _flush(self) -> None:
        for sharing, changed in self._changed_flows.items():
            (way, node, priority), flows = sharing, self._shared[sharing]
            scope = self._scope_of(node)
            for packed, wanted in changed.items():
                parts = flows[packed]
                flow = shared_flow(way, priority, wanted, parts)
                if parts:
                    scope.put(flow)
                else:
                    scope.remove(flow)
                    del flows[packed]
            if not flows:
                del self._shared[sharing]
        self._changed_flows.clear()


class _RulePart(NamedTuple):
    """A rule, or what of it is about one number that its named ports mean. The filters belong to that number."""

    name: str
    way: Way
    order: int  # the priority of its flows, in a tier whose rules are in one
    rule: Rule
    ports: tuple[PortRange, ...] | None = None
    about: Filter | None = None  # of the pods that it is about
    towards: Filter | None = None  # of its peers


def _rank_and_size(policy: Policy | None) -> tuple[tuple[int, str, str], int] | None:
    return (rank(policy), _size(policy)) if policy is not None else None


def _size(policy: Policy) -> int:
    """How many priorities a policy's rules need; each direction has a table."""
    return max(len(policy.rules(direction) or ()) for direction in Direction)


def _fitting(order: list[tuple[PolicyKey, int]]) -> list[tuple[PolicyKey, int]]:
    """Those that there are priorities for."""
    total = 0
    for index, (key, size) in enumerate(order):
        total += size
        if total > HIGHEST:
            LOG.error("%s %s: not enforced, nor those after it: more than %d rules in one tier", *key, HIGHEST)
            return order[:index]
    return order


def _selves(way: Way, pod: Key, where: Whereabouts) -> Iterator[Flow]:
    assert where.place is not None
    for address in where.addresses:
        yield self_flow(way, str(pod), where.place.ofport, address)


def _networks(rule: Rule) -> tuple[Network, ...]:
    return tuple(network for peer in rule.peers or () if isinstance(peer, Block) for network in peer.networks())


def _meanings(group: Group, port: NamedPort) -> frozenset[tuple[str, int]]:
    """Protocols and numbers that a group's pods have for a name."""
    return frozenset[tuple[str, int]]().union(
        *(member.number_of(port.name, port.protocol) for member in group.members.values())
    )
