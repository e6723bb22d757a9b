"""Whose address is seen on each path: what is measured, what Kubernetes' documentation says, and the page of both.

A cell is what the server (or the host outside) saw: ``kept``, the address of who asked; ``node (n1)`` and the like,
somebody else's; ``no answer`` or ``refused``. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product

__all__ = ["ASKERS", "LEAVERS", "LEAVING", "PATHS", "Cells", "Leaving", "Path", "differences", "page"]

Cells = Mapping[str, Mapping[str, str]]  # by path (or setting) and asker

SOURCE_IP = "https://kubernetes.io/docs/tutorials/services/source-ip/"
KEPT = "kept"
SILENT = ("no answer", "refused")

# Who asks, in the order of the columns. The server is a pod on n1.
ASKERS = {
    "near": "pod on n1",
    "far": "pod on n2",
    "n1": "node n1",
    "n2": "node n2",
    "e1": "host outside",
}
_INSIDE = ("near", "far", "n1", "n2")


@dataclass(frozen=True)
class Path:
    """One way to the server. ``host`` is a Service (of external IPs: these count), a node, or ``pod``."""

    name: str
    host: str
    port: int
    says: str  # what the documentation says, in short; "" nothing
    inside: str | None = None  # the cells that follow from that: kept, replaced, silent; None: nothing is said
    outside: str | None = None
    # Cells that are otherwise (or of which nothing is said), and why that is right.
    reasons: Mapping[str, str] = field(default_factory=dict)
    varies: bool = False  # the load balancer chooses who stands for the client


def _by_default(name: str, host: str, port: int, **reasons: str) -> Path:
    """A way of policy Cluster: by default clients are not seen."""
    varies = host == "lb-cluster"
    return Path(f"{name}, `Cluster`", host, port, "source NAT'd by default", "replaced", "replaced", reasons, varies)


_TO_OTHERS = "kept; a node without endpoints drops"
_WITH_ENDPOINTS = "kept: only nodes with endpoints are asked"
_OWN = "the node's own address stands for the node, which is what asks"
_ENTERED_HERE = (
    "the documentation speaks of clients outside; kube-proxy, too, takes what pods of a node (and it itself) send "
    "to its own node port for traffic of the cluster, with all endpoints"
)
_UNASKED = "the edge lets in what is for load balancers and node ports, and nothing else"
_STRAIGHT = "the load balancer sends to pods, not to node ports: what the documentation says of these has no part in it"
_DIRECT = "with direct server return nodes answer clients, so none may stand for them (as Cilium's does)"
_NO_ROUTE = "nothing leads there from outside: external IPs are routed by whoever has them, and here nobody does"
_AT_HOME = (
    "a kernel finds its own addresses at home, past its bridge ([services.md](services.md#a-nodes-own-node-ports))"
)

PATHS = (
    Path("pod IP", "pod", 8080, "no NAT between pods and nodes (network model)", KEPT, None, {"e1": _UNASKED}),
    Path("ClusterIP", "plain", 80, "never source NAT'd from within the cluster", KEPT, None, {"e1": _UNASKED}),
    _by_default("NodePort of n1", "n1", 30080, n1=_OWN),
    _by_default("NodePort of n2", "n2", 30080, n2=_OWN),
    Path("NodePort of n1, `Local`", "n1", 30081, _TO_OTHERS, KEPT, KEPT),
    Path(
        "NodePort of n2, `Local`",
        "n2",
        30081,
        _TO_OTHERS,
        "silent",
        "silent",
        {"far": _ENTERED_HERE, "n2": _ENTERED_HERE},
    ),
    _by_default("LoadBalancer, instance mode", "lb-cluster", 80, n1=_OWN, n2=_OWN),
    Path("LoadBalancer, instance mode, `Local`", "lb-local", 80, _WITH_ENDPOINTS, KEPT, KEPT),
    _by_default("LoadBalancer, IP mode", "ip-cluster", 80, n1=_OWN, n2=_OWN, e1=_STRAIGHT),
    Path("LoadBalancer, IP mode, `Local`", "ip-local", 80, _WITH_ENDPOINTS, KEPT, KEPT),
    _by_default("LoadBalancer, direct return", "dsr-cluster", 80, **dict.fromkeys(ASKERS, _DIRECT)),
    Path("LoadBalancer, direct return, `Local`", "dsr-local", 80, _WITH_ENDPOINTS, KEPT, KEPT),
    _by_default("external IP", "external-cluster", 80, n1=_OWN, n2=_OWN, e1=_NO_ROUTE),
    Path("external IP, `Local`", "external-local", 80, _TO_OTHERS, KEPT, KEPT, {"e1": _NO_ROUTE}),
    Path("hostPort of n1", "n1", 8081, "", None, None, {"n1": _AT_HOME, "e1": _UNASKED}),
)


@dataclass(frozen=True)
class Leaving:
    """A setting of the way out; its cells are what the host outside sees. What is expected is so in both families."""

    name: str
    outgoing: bool
    masquerade: bool
    says: str = ""
    expected: Mapping[str, str] = field(default_factory=dict)  # cells that follow from that


LEAVERS = {
    "near": "pod on n1",
    "egress": "pod with an egress address",
    "host": "hostNetwork pod on n1",
    "n1": "node n1",
}
LEAVING = (
    Leaving("NAT gateway (default)", True, False),
    Leaving("NAT gateway, nodes masquerade", True, True),
    Leaving("`outgoing: false`", False, False),
    Leaving(
        "`outgoing: false`, nodes masquerade",
        False,
        True,
        "a pod's address is hidden behind its node's (ip-masq-agent)",
        {"near": "node (n1)", "host": KEPT, "n1": KEPT},
    ),
)


def differences(ways: Cells, *outs: Cells) -> list[str]:
    """Where what is measured is not what the documentation says, and no reason is given; and reasons for nothing.

    ``outs`` are the ways out, of each family.
    """
    lines = []
    for path in PATHS:
        for asker in ASKERS:
            said = path.inside if asker in _INSIDE else path.outside
            if said is None:
                continue
            cell = ways[path.name][asker]
            agrees = _agrees(cell, said)
            if not agrees and asker not in path.reasons:
                lines.append(f"{path.name} from {ASKERS[asker]}: {cell}, the documentation says {said}: {path.says}")
            if agrees and asker in path.reasons:
                lines.append(f"{path.name} from {ASKERS[asker]}: {cell}, as documented, but a reason is given")
    for out, setting in product(outs, LEAVING):
        for asker, said in setting.expected.items():
            if (cell := out[setting.name][asker]) != said:
                lines.append(f"{setting.name} from {LEAVERS[asker]}: {cell}, should be {said}: {setting.says}")
    return lines


def _agrees(cell: str, said: str) -> bool:
    """A cell may name several, one of which is seen at a time."""
    seen = cell.split(" or ")
    agreeing = {
        KEPT: all(each == KEPT for each in seen),
        "silent": all(each in SILENT for each in seen),
        "replaced": not {KEPT, *SILENT} & set(seen),
    }
    return agreeing[said]


def page(ways: Cells, out: Cells, out_ipv6: Cells) -> str:
    """``docs/source-addresses.md``; ``ways`` are the same in both families."""
    notes: dict[str, int] = {}
    rows = []
    for path in PATHS:
        cells = []
        for asker in ASKERS:
            cell = ways[path.name][asker]
            if asker in path.reasons:
                cell += f" [{notes.setdefault(path.reasons[asker], len(notes) + 1)}]"
            cells.append(cell)
        rows.append(_row(path.name, cells, path.says))
    lines = [
        "# Who sees whose address",
        "",
        "Measured on dual-stack clusters of two nodes by `tests/packet/test_source_addresses.py`: over TCP and UDP",
        "alike, and to pods over IPv4 and IPv6 alike. The test fails when that is not so, when this page is not what",
        "it measures (with `--write-docs` it writes the page), or when a cell is",
        f"not what Kubernetes' documentation says ([Using Source IP]({SOURCE_IP}))",
        "and no reason is given below.",
        "",
        "## To a pod",
        "",
        "The server is a pod on n1, the only endpoint of all Services. A cell is what it sees of who asks: the asker's",
        "own address (*kept*), or somebody else's. `Cluster` and `Local` are `externalTrafficPolicy`.",
        "",
        *_head("path", ASKERS.values()),
        *rows,
        "",
        "Where a cell is not what the documentation says, or needs a word:",
        "",
        *(f"{number}. {reason[0].upper()}{reason[1:]}." for reason, number in notes.items()),
        "",
        "## From the cluster to the outside",
        "",
        "What a host outside sees; see [outside.md](outside.md) for the settings.",
        "",
        *_leaving(out),
        "",
        "Over IPv6, which the gateway does not translate unless it is given IPv6 addresses:",
        "",
        *_leaving(out_ipv6),
    ]
    return "\n".join(lines) + "\n"


def _leaving(out: Cells) -> list[str]:
    rows = (_row(each.name, [out[each.name][asker] for asker in LEAVERS], each.says) for each in LEAVING)
    return [*_head("setting", LEAVERS.values()), *rows]


def _head(first: str, columns: Iterable[str]) -> list[str]:
    names = [first, *columns, "Kubernetes' documentation"]
    return [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]


def _row(first: str, cells: Iterable[str], says: str) -> str:
    return f"| {' | '.join([first, *cells, says or 'says nothing'])} |"
