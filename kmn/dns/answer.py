"""The answer to a question, from a zone: the algorithm of RFC 1034 §4.3.2 on what ``zone`` says exists. Pure.

No wildcards: the specification has none. What lies outside the cluster's zones is not answered here (:func:`answer`
says so by None), nor is the last step of a CNAME that leads outside (``Answer.chase``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from kmn.dns.records import Node, Record, RRType, Srv

__all__ = ["Answer", "Names", "Rcode", "answer"]

_MAX_CHAIN = 8  # CNAMEs followed; an ExternalName may lead to another, and to itself


class Rcode(IntEnum):
    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16


class Names(Protocol):
    """What exists at which name: :class:`kmn.dns.zone.Zone`, and the internet's."""

    def apex(self, name: str) -> str | None: ...

    def find(self, name: str) -> Node | None: ...

    def soa(self, apex: str) -> Record: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """The sections of a reply. ``chase`` is the outside name at which a chain of CNAMEs leaves the cluster."""

    rcode: Rcode = Rcode.NOERROR
    answers: tuple[Record, ...] = ()
    authority: tuple[Record, ...] = ()
    additional: tuple[Record, ...] = ()
    chase: str | None = None


def answer(zone: Names, name: str, rrtype: int) -> Answer | None:
    """What the cluster says about a name (in any case, with final dot). None: the name is not the cluster's."""
    name = name.lower()
    chain: list[Record] = []
    while True:
        apex = zone.apex(name)
        if apex is None:
            return Answer(answers=tuple(chain), chase=name) if chain else None
        node = zone.find(name)
        if node is None:
            return Answer(Rcode.NXDOMAIN, tuple(chain), (zone.soa(apex),))
        if RRType.CNAME in node and rrtype not in (RRType.CNAME, RRType.ANY):
            link = node[RRType.CNAME][0]
            if link in chain or len(chain) == _MAX_CHAIN:
                return Answer(Rcode.SERVFAIL, tuple(chain))
            chain.append(link)
            name = str(link.data)
            continue
        found = _matching(node, rrtype)
        if not found:
            return Answer(answers=tuple(chain), authority=(zone.soa(apex),))
        return Answer(answers=(*chain, *found), additional=_additional(zone, found))


def _matching(node: Node, rrtype: int) -> tuple[Record, ...]:
    if rrtype == RRType.ANY:
        return tuple(record for rrset in node.values() for record in rrset)
    return node.get(rrtype, ())  # type: ignore[call-overload, no-any-return]  # other types are no keys of any node


def _additional(zone: Names, found: tuple[Record, ...]) -> tuple[Record, ...]:
    """Addresses of what SRV and NS records point to, so that clients need not ask again."""
    targets = [
        record.data.target if isinstance(record.data, Srv) else str(record.data)
        for record in found
        if record.type in (RRType.SRV, RRType.NS)
    ]
    return tuple(
        record
        for target in dict.fromkeys(targets)
        for rrset in (zone.find(target) or {}).values()
        for record in rrset
        if record.type in (RRType.A, RRType.AAAA)
    )
