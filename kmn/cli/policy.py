"""``kmn policy``: what policies say, from the objects alone."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from kmn.cli.output import dump
from kmn.cli.problems import failing_with
from kmn.cluster import Cluster
from kmn.errors import UserError
from kmn.k8s.client import Client
from kmn.k8s.objects import key_of, labels, name_of
from kmn.k8s.resources import NAMESPACES, NODES, PODS, POLICIES
from kmn.machine import find
from kmn.policy.answers import Port
from kmn.policy.clusterwide import policy_of
from kmn.policy.model import Direction
from kmn.policy.selection import Member, Selection, member_of, node_member_of
from kmn.policy.verdicts import Decision, End, Judge, Verdict

__all__ = ["explain", "judge_of", "port_of"]

_FORMS = ("text", "json", "yaml")
_DENIED, _FAILED = 1, 2  # exit codes
_PROTOCOLS = ("TCP", "UDP", "SCTP")


def explain(
    source: str, destination: str, port: str, namespace: str, cluster: str | None, form: str, *, staged: bool
) -> int:
    """Print who allows or denies a connection; 0 when it is allowed, 1 when it is not. All errors have exit code 2."""
    with failing_with(_FAILED):
        return _explain(source, destination, port, namespace, cluster, form, staged=staged)


def _explain(
    source: str, destination: str, port: str, namespace: str, cluster: str | None, form: str, *, staged: bool
) -> int:
    if form not in _FORMS:
        raise UserError(f"-o {form}: not known", ", ".join(_FORMS))
    number, protocol = port_of(port)
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
    return 0 if verdict.allowed else _DENIED


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


def port_of(text: str) -> Port:
    """``80``, ``53/udp``. Raises UserError."""
    number, _, protocol = text.partition("/")
    protocol = protocol.upper() or "TCP"
    if not number.isdigit() or not 0 < int(number) < 65536 or protocol not in _PROTOCOLS:
        raise UserError(f"port {text}: not understood", "a number, or NUMBER/PROTOCOL with TCP, UDP or SCTP")
    return Port(int(number), protocol)


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
