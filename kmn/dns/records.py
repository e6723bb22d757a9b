"""Resource records as plain data, printed as a zone file has them. No wire format here: that is ``wire``.

Names are absolute, in lower case, with the final dot.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple, TypeAlias

__all__ = ["TTL", "Data", "Node", "Record", "RRType", "Soa", "Srv", "address_record"]

TTL = 5  # seconds; CoreDNS' default for the cluster's records


class RRType(IntEnum):
    """Types that the cluster has records of, and ANY, which asks for all of them."""

    A = 1
    NS = 2
    CNAME = 5
    SOA = 6
    PTR = 12
    TXT = 16
    AAAA = 28
    SRV = 33
    ANY = 255


class Srv(NamedTuple):
    priority: int
    weight: int
    port: int
    target: str

    def __str__(self) -> str:
        return " ".join(map(str, self))


class Soa(NamedTuple):
    mname: str
    rname: str
    serial: int
    refresh: int = 7200
    retry: int = 1800
    expire: int = 86400
    minimum: int = TTL  # how long resolvers may remember that a name is missing

    def __str__(self) -> str:
        return " ".join(map(str, self))


Data: TypeAlias = str | Srv | Soa


class Record(NamedTuple):
    """One resource record of class IN."""

    name: str
    type: RRType
    data: Data
    ttl: int = TTL

    def __str__(self) -> str:
        data = f'"{self.data}"' if self.type is RRType.TXT else self.data
        return f"{self.name} {self.ttl} IN {self.type.name} {data}"


# What exists at one name. An empty node is an *empty non-terminal*: there is nothing at it, but names below it.
Node: TypeAlias = Mapping[RRType, tuple[Record, ...]]


def address_record(name: str, address: str) -> Record:
    """A or AAAA, as the address is."""
    return Record(name, RRType.AAAA if ":" in address else RRType.A, address)
