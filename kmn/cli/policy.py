"""``kmn policy`` and ``kmn reach``: what NetworkPolicies say, from the objects alone."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from kmn.apiserver.admission.defaults import set_defaults
from kmn.apiserver.admission.validation import validate
from kmn.cli.manifests import read
from kmn.cli.output import dump
from kmn.cluster import Cluster
from kmn.errors import UserError
from kmn.k8s.client import Client
from kmn.k8s.objects import Object, describe, draft, key_of, labels, name_of
from kmn.k8s.resources import NAMESPACES, NODES, PODS, POLICIES, Resource
from kmn.machine import find
from kmn.policy.clusterwide import policy_of
from kmn.policy.model import Direction
from kmn.policy.reach import Reach, differences, fold, reach
from kmn.policy.selection import Member, Selection, member_of, node_member_of
from kmn.policy.verdicts import Decision, End, Judge, Verdict

__all__ = ["explain", "judge_of", "show_reach"]

_FORMS = ("text", "json", "yaml")
_PROTOCOLS = ("TCP", "UDP", "SCTP")


def explain(
    source: str, destination: str, port: str, namespace: str, cluster: str | None, form: str, *, staged: bool
) -> int:
    """Print who allows or denies a connection; 0 when it is allowed, 1 when it is not."""
    if form not in _FORMS:
        raise UserError(f"-o {form}: not known", ", ".join(_FORMS))
    number, protocol = _port(port)
    with Cluster.attach(cluster) as running:
        judge = judge_of(running.client, staged=staged)
        client, node = _end(running, judge.selection, source, namespace)
        server, _ = _end(running, judge.selection, destination, namespace)
    verdict = judge.judge(client, server, protocol, number)
    if node and isinstance(server, Member) and server.node == node:
        # A node reaches its own pods whatever policies say: its kubelet probes them.
        verdict = Verdict(verdict.egress, Decision(Direction.INGRESS, True))
    shown = {
        "source": f"node {node}" if node else _name(client),
        "destination": _name(server),
        "port": number,
        "protocol": protocol,
        "allowed": verdict.allowed,
        "egress": _decision(verdict.egress),
        "ingress": _decision(verdict.ingress),
    }
    if form == "text":
        _print(shown)
    else:
        dump(shown, form)
    return 0 if verdict.allowed else 1


def show_reach(port: str, changes: list[str], cluster: str | None, form: str) -> int:
    """Print who may connect to a port of whom; with ``changes`` (manifests) what those would open and close, and 1 if
    that is anything."""
    if form not in _FORMS:
        raise UserError(f"-o {form}: not known", ", ".join(_FORMS))
    number, protocol = _port(port)
    with Cluster.attach(cluster) as running:
        judge = judge_of(running.client)
    now = reach(judge, protocol, number)
    if not changes:
        _print_table(now, f"{number}/{protocol}") if form == "text" else dump(_table(now, f"{number}/{protocol}"), form)
        return 0
    for obj in read(changes):
        resource = next((each for each in POLICIES if each.kind == obj["kind"]), None)
        if resource is None:
            raise UserError(f"--diff: {describe(obj)}: is no policy", "only policies are compared")
        judge.set_policy(policy_of(_admitted(resource, obj)))
    changed = differences(now, reach(judge, protocol, number))
    if form != "text":
        dump([{"source": str(s), "destination": str(d), "allowed": allowed} for s, d, allowed in changed], form)
    for source, destination, allowed in changed if form == "text" else ():
        print(f"{'opens ' if allowed else 'closes'} {source} -> {destination}, {number}/{protocol}")
    return 1 if changed else 0


def _admitted(resource: Resource, obj: Object) -> Object:
    """A policy as the API server would take it. Raises UserError where it would not."""
    made = draft(obj)
    if resource.namespaced:
        made["metadata"].setdefault("namespace", "default")
    set_defaults(made)
    errors = validate(resource, made, None)
    if errors:
        raise UserError("\n".join(f"{describe(made)}: {error}" for error in errors))
    return made


def _table(now: Reach, port: str) -> dict[str, Any]:
    names = list(map(str, now.pods))
    return {
        "port": port,
        "reach": {
            name: [other for j, other in enumerate(names) if now.may(i, j) and i != j] for i, name in enumerate(names)
        },
    }


def _print_table(now: Reach, port: str) -> None:
    alike = fold(now)
    width = max((len(each.name(now)) for each in alike), default=0)
    digits = len(str(len(alike)))
    print(f"{port}: + is allowed, . is not; columns are the rows' numbers")
    print(" " * (digits + width + 2) + " ".join(f"{n:>{digits}}" for n in range(1, len(alike) + 1)))
    for number, source in enumerate(alike, 1):
        cells = (
            now.may(source.places[0], next((p for p in other.places if p != source.places[0]), source.places[0]))
            for other in alike
        )
        shown = " ".join(f"{'+' if cell else '.':>{digits}}" for cell in cells)
        print(f"{number:>{digits}} {source.name(now):<{width}} {shown}")


def judge_of(client: Client, *, staged: bool = False) -> Judge:
    """All policies over all pods, as they are now; ``staged``: as if those were in force that are only tried out."""
    selection = Selection()
    for namespace in client.list(NAMESPACES).items:
        selection.set_namespace(name_of(namespace), labels(namespace))
    for pod in client.list(PODS).items:
        selection.set_member(key_of(pod), member_of(pod))
    for node in client.list(NODES).items:
        selection.set_member(key_of(node), node_member_of(node))
    policies = (policy_of(obj) for resource in POLICIES for obj in client.list(resource).items)
    return Judge(selection, (policy for policy in policies if staged or not policy.staged))


def _port(text: str) -> tuple[int, str]:
    number, _, protocol = text.partition("/")
    protocol = protocol.upper() or "TCP"
    if not number.isdigit() or not 0 < int(number) < 65536 or protocol not in _PROTOCOLS:
        raise UserError(f"port {text}: not understood", "a number, or NUMBER/PROTOCOL with TCP, UDP or SCTP")
    return int(number), protocol


def _end(running: Cluster, selection: Selection, text: str, namespace: str) -> tuple[End, str]:
    """A pod, as policies know it; the address of whatever else has one, and of a node its name."""
    node = ""
    try:
        address = ip_address(text)
    except ValueError:
        machine = find(running.client, running.name, text, namespace)
        address = ip_address(machine.ip)
        node = machine.name if machine.kind == "node" else ""
    return next((member for member in selection.members.values() if address in member.addresses), address), node


def _name(end: End) -> str:
    if not isinstance(end, Member):
        return str(end)
    return f"pod {end.key}" if end.key.namespace else f"node {end.key}"


def _decision(decision: Decision) -> dict[str, Any]:
    shown: dict[str, Any] = {"allowed": decision.allowed, "reason": decision.reason}
    if decision.passed:
        shown["passed"] = list(map(str, decision.passed))
    if decision.misses:
        shown["rules"] = list(map(str, decision.misses))
    return shown


def _print(shown: dict[str, Any]) -> None:
    verdict = "allowed" if shown["allowed"] else "denied"
    print(f"{shown['source']} -> {shown['destination']}, {shown['port']}/{shown['protocol']}: {verdict}")
    for direction, of in (("egress", shown["source"]), ("ingress", shown["destination"])):
        decision = shown[direction]
        print(f"  {direction} of {of}: {'allowed' if decision['allowed'] else 'denied'}: {decision['reason']}")
        for rule in decision.get("passed", ()):
            print(f"    {rule}: passed on")
        for rule in decision.get("rules", ()):
            print(f"    {rule}")
