"""The tables, registers and marks of a bridge, each named here and nowhere else.

Adding a table: give it a number between its neighbours (numbers have gaps), add its line below in the order in which
packets pass, and make the table before it go to it. Packets go to tables of higher number only; connection tracking
recirculates to the table it is told. A table without flows drops everything, so a feature that is off is passed by:
the table before it goes to the one after it.
"""

from __future__ import annotations

from enum import IntEnum

from controller.openflow.actions import Action, move_bit, move_from_label, move_to_label, set_ct_mark, set_reg
from controller.openflow.match import Field, ct_mark, reg
from kmn.k8s.dataplane import CT_ZONES, UPLINK_OFPORT
from kmn.policy.flows import POLICY_FEATURE, CountTable, PolicyTable

__all__ = [
    "AFTER_SERVICE",
    "ALLOWED",
    "CLEAR_MASQUERADE",
    "EGRESS_RULE",
    "ENDPOINT_IP",
    "ENDPOINT_PORT",
    "GROUP",
    "HAIRPIN",
    "INGRESS_RULE",
    "MARK_ALLOWED",
    "MARK_ALLOWED_PROXIED",
    "MARK_DENIED",
    "MARK_SERVICE",
    "MASQUERADE",
    "MASQUERADE_PORTS",
    "NAT_ZONE",
    "OUT_PORT",
    "PROXIED",
    "REMEMBER_RULES",
    "RECALL",
    "RECALL_MASQUERADE",
    "SCRATCH",
    "SCRATCH_NUMBER",
    "SERVICE",
    "SERVICE_BIT",
    "SET_HAIRPIN",
    "SET_MASQUERADE",
    "SET_STATELESS",
    "STATELESS",
    "TO_POD",
    "TO_UPLINK",
    "TURN",
    "ZONE",
    "EdgeTable",
    "Feature",
    "Table",
    "to_port",
]


class Table(IntEnum):
    """Tables of a node's bridge, in order."""

    # Who is it?
    CLASSIFIER = 0  # port, source address and MAC; what is not expected is dropped
    ARP = 4  # every request is answered with the gateway's MAC; of IPv6, neighbour discovery
    ADVERTISEMENT = 5  # such an answer is completed
    # What connection is it of?
    UN_SNAT = 8  # answers to addresses that SNAT gave: translated back in NAT_ZONE
    RESTORE = 10  # from a load balancer with direct return: back to the address and port that the client asked
    CONNTRACK = 12  # tracked in ZONE; packets of known connections are translated
    STATE = 16  # invalid: dropped; connection allowed before: straight to ROUTING
    # Where does it want to go?
    AFFINITY = 24  # learned: the endpoint of a client; SERVICE and NODE_PORT ask here, no packet goes on from here
    ROTATION = 26  # learned: whose turn it is, where endpoints are chosen one after the other
    SERVICE = 28  # virtual address and port to a group of endpoints
    NODE_PORT = 30  # the node's own address: node ports and pods' host ports
    SERVICE_REJECT = 32  # virtual addresses where nothing answers: to the node's kernel, which refuses
    TURN = 33  # the endpoint whose turn it is; the next turn is learned
    ENDPOINT = 34  # the endpoint in registers, with session affinity: learned, and translated to
    # May it go out? Policies of the source, tier by tier; before that the same as if those were in force that are only
    # tried out. (kmn.policy.flows has the numbers: 36 to 44 here, 56 to 68 for those that come in, 78 and 80 to count.)
    STAGED_EGRESS_ADMIN = PolicyTable.STAGED_EGRESS_ADMIN
    STAGED_EGRESS_POLICY = PolicyTable.STAGED_EGRESS_POLICY
    STAGED_EGRESS_BASELINE = PolicyTable.STAGED_EGRESS_BASELINE
    EGRESS_ADMIN = PolicyTable.EGRESS_ADMIN  # administrators': the first rule that matches decides, or passes it on
    EGRESS_POLICY = PolicyTable.EGRESS_POLICY  # NetworkPolicies: what no rule allows of an isolated pod is denied
    EGRESS_BASELINE = PolicyTable.EGRESS_BASELINE  # of pods that no NetworkPolicy isolates
    # How does it get there?
    ROUTING = 52  # next hop and port: pod, node, uplink
    # May it come in? Policies of the destination, likewise.
    STAGED_INGRESS_ADMIN = PolicyTable.STAGED_INGRESS_ADMIN
    STAGED_INGRESS_POLICY = PolicyTable.STAGED_INGRESS_POLICY
    STAGED_INGRESS_BASELINE = PolicyTable.STAGED_INGRESS_BASELINE
    INGRESS_ADMIN = PolicyTable.INGRESS_ADMIN
    INGRESS_POLICY = PolicyTable.INGRESS_POLICY
    INGRESS_BASELINE = PolicyTable.INGRESS_BASELINE
    COMMIT = 76  # all tables let it pass: the connection is marked as allowed
    EGRESS_COUNT = CountTable.EGRESS_COUNT  # packets of connections by the rule that let them out
    INGRESS_COUNT = CountTable.INGRESS_COUNT  # and in
    SNAT = 84  # sources that must be replaced, in NAT_ZONE
    NATTED = 88  # what should have got the node's address: without a free port it is dropped, and counted
    OUTPUT = 92
    DENIED = 96  # by a policy: dropped


class EdgeTable(IntEnum):
    """Tables of the edge's bridge, in order; numbers as on nodes where they do the same."""

    CLASSIFIER = Table.CLASSIFIER
    ARP = Table.ARP
    ADVERTISEMENT = Table.ADVERTISEMENT
    CONNTRACK = Table.CONNTRACK
    STATE = Table.STATE  # from outside only what answers, or is for a load balancer or a node port
    SERVICE = Table.SERVICE  # load balancers' addresses and ports to a group of nodes or pods
    ROUTING = Table.ROUTING
    SNAT = Table.SNAT  # clusters' addresses become public ones
    NATTED = Table.NATTED  # what should have got a public address: without one it is dropped, and counted
    OUTPUT = Table.OUTPUT


# Where a packet goes on once its endpoint is chosen, or when it is for no Service.
AFTER_SERVICE = Table.STAGED_EGRESS_ADMIN
# Where it goes on once it has a way to a pod.
TO_POD = Table.STAGED_INGRESS_ADMIN


class Feature(IntEnum):
    """The first eight bits of a cookie: the module of ``controller.features`` that a flow comes from."""

    CONNECTIVITY = 1
    NODE = 2
    POD = 3
    SERVICE = 4
    EDGE = 5
    AFFINITY = 6  # flows that switches learned by themselves
    ROTATION = 7  # the same
    POLICY = POLICY_FEATURE
    LOAD_BALANCER = 30  # the edge's flows of Services
    EGRESS = 31  # the edge's flows of pods with a public address of their own


ZONE, NAT_ZONE = CT_ZONES

# Registers. One match names only one of a pair, 0 and 1 and so on (see controller.openflow.match.reg).
#   reg0[0]    HAIRPIN   the packet leaves by the port that it came in by
#   reg0[1]    MASQUERADE  it gets the node's address as source
#   reg0[2]    STATELESS  at the edge: of a load balancer with direct return, not to be tracked
#   reg2       OUT_PORT  OpenFlow port that it leaves by
#   reg4       ENDPOINT_IP    } of a Service with session affinity; an IPv6 address is in reg12 to reg15 (xxreg3)
#   reg6       ENDPOINT_PORT  }
#   reg8       GROUP          } number of the group that the endpoint is of, or of the turns
#   reg10      TURN           number of the turn, of ports whose endpoints are chosen one after the other
#   reg9       EGRESS_RULE   number of the rule that allowed its connection to go out, 0 where no policy concerns it
#   reg11      INGRESS_RULE  and to come in
#   reg15      SCRATCH   between two actions of one flow
OUT_PORT = 2
TO_UPLINK: Field = reg(OUT_PORT, UPLINK_OFPORT)
ENDPOINT_IP = 4
ENDPOINT_PORT = 6
GROUP = 8
TURN = 10
EGRESS_RULE = 9
INGRESS_RULE = 11
SCRATCH_NUMBER = 15
SCRATCH = f"reg{SCRATCH_NUMBER}"
HAIRPIN: Field = reg(0, 0x1, 0x1)
SET_HAIRPIN: Action = set_reg(0, 0x1, 0x1)
MASQUERADE: Field = reg(0, 0x2, 0x2)
SET_MASQUERADE: Action = set_reg(0, 0x2, 0x2)
CLEAR_MASQUERADE: Action = set_reg(0, 0x0, 0x2)
STATELESS: Field = reg(0, 0x4, 0x4)
SET_STATELESS: Action = set_reg(0, 0x4, 0x4)


def to_port(port: int) -> Action:
    """Choose the port to leave by."""
    return set_reg(OUT_PORT, port)


# Connection marks in ZONE.
#   [0] ALLOWED   passed every table once; "established" alone would not say so, as a DNAT commits before policy
#   [1] SERVICE   DNATed from a virtual address
#   [2] MASQUERADED  and to get the node's address as source
#       PROXIED   at the edge: a load balancer's connection that gets the edge's address as its source
ALLOWED: Field = ct_mark(0x1, 0x1)
MARK_ALLOWED: Action = set_ct_mark(0x1, 0x1)
MARK_DENIED: Action = set_ct_mark(0x0, 0x1)
SERVICE_BIT = 0x2
SERVICE: Field = ct_mark(SERVICE_BIT, SERVICE_BIT)
MARK_SERVICE: tuple[Action, ...] = (set_ct_mark(SERVICE_BIT, SERVICE_BIT), move_bit("reg0", 1, "ct_mark", 2))
RECALL_MASQUERADE: Action = move_bit("ct_mark", 2, "reg0", 1)
# Which rules allowed a connection is written on it, so that its packets can be counted for them.
REMEMBER_RULES: tuple[Action, ...] = (move_to_label(EGRESS_RULE, 0), move_to_label(INGRESS_RULE, 1))
RECALL: tuple[Action, ...] = (RECALL_MASQUERADE, move_from_label(0, EGRESS_RULE), move_from_label(1, INGRESS_RULE))
PROXIED: Field = ct_mark(0x4, 0x4)
MARK_ALLOWED_PROXIED: Action = set_ct_mark(0x5, 0x5)

# Ports of masqueraded connections, chosen by a hash among those that no connection that is remembered has.
MASQUERADE_PORTS = (1024, 65535)
