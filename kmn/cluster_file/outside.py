"""What is outside: hosts of the internet, the NAT gateway, and where nodes put their own address."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from kmn.cluster_file.networks import IPV4_ONLY, NAT_EXAMPLE, Address, Network, Networks, addresses_from
from kmn.cluster_file.section import Section, link_of
from kmn.cluster_spec import MasqueradeSpec, NatSpec, OutsideHost

__all__ = ["FIRST_OUTSIDE_HOST", "Outside"]

FIRST_OUTSIDE_HOST = 10  # of internet.cidr; the addresses before are the edge's


@dataclass
class Outside(Section):
    """``spec.internet`` and ``spec.masquerade``."""

    networks: Networks

    def hosts(self, network: IPv4Network, ipv6: IPv6Network | None) -> tuple[OutsideHost, ...]:
        """The hosts outside. ``ipv6`` is their second network in a dual-stack cluster."""
        entries = (self.spec.get("internet") or {}).get("hosts", [{"name": "e1"}])
        self.unique((f"internet.hosts[{i}].name", entry["name"]) for i, entry in enumerate(entries))
        asked, asked_ipv6 = self.asked(entries, IPv4Address, network), self.asked(entries, IPv6Address, ipv6)
        free = (a for a in addresses_from(network, FIRST_OUTSIDE_HOST) if a not in asked.values())
        hosts: list[OutsideHost] = []
        for index, entry in enumerate(entries):
            address = asked.get(index) or next(free, None)
            if address is None:
                self.wrong(
                    "internet.cidr", f"{network} has no address left for host {entry['name']}: use a larger network"
                )
                break
            second = asked_ipv6.get(index)
            if ipv6 and second is None:
                second = ipv6[int(address) - int(network[0])]
                if second in asked_ipv6.values():
                    self.wrong(f"internet.hosts[{index}].address", f"{second}, the IPv6 address with the number of "
                               f"{address}, is another host's: write both addresses")  # fmt: skip
            link = link_of(entry.get("link") or {})
            hosts.append(OutsideHost(entry["name"], address, link, entry.get("dns", True), second))
        return tuple(hosts)

    def asked(self, entries: list[dict[str, Any]], kind: type[Address], network: Network | None) -> dict[int, Address]:
        """Addresses of one family that hosts outside ask for, by the host's place."""
        taken: dict[Address, str] = {}
        found: dict[int, Address] = {}
        for index, entry in enumerate(entries):
            path = f"internet.hosts[{index}].address"
            for text in filter(None, entry.get("address", "").split(",")):
                if (":" in text) != (kind is IPv6Address):
                    continue
                if network is None:
                    if not self.networks.dual:
                        self.wrong(path, f"{text}: {IPV4_ONLY} address")
                    continue
                address = self.networks.address(path, text, kind, network, taken)
                if address is not None:
                    taken[address] = f"host {entry['name']}"
                    found[index] = address
        return found

    def nat(self, network: IPv4Network, ipv6: IPv6Network | None) -> NatSpec:
        """The gateway; ``spec.internet.nat`` is a network, or fields. ``ipv6`` is where it translates IPv6, too."""
        entry = (self.spec.get("internet") or {}).get("nat", {})
        entry = entry if isinstance(entry, dict) else {}
        first, last = self.ports("internet.nat.ports", entry)
        limit = entry.get("perDestinationLimit", last - first + 1)
        if limit > last - first + 1:
            message = f"{limit} is more than the {last - first + 1} ports of {first}-{last}: use more of either"
            self.wrong("internet.nat.perDestinationLimit", message)
        if "count" in entry and "addresses" in entry:
            self.wrong("internet.nat.count", "not together with addresses, which counts by itself: remove one")
        ports = (first, first + limit - 1)
        addresses = self.nat_addresses(entry, IPv4Address, network)
        ipv6_addresses = self.nat_addresses(entry, IPv6Address, ipv6)
        return NatSpec(addresses, ports, entry.get("outgoing", True), ipv6_addresses)

    def masquerade(self) -> MasqueradeSpec | None:
        """``spec.masquerade`` is true, false, or fields (which are enough to want it)."""
        entry = self.spec.get("masquerade", False)
        if entry is False:
            return None
        entry = entry if isinstance(entry, dict) else {}
        networks: list[Network] = []
        for index, text in enumerate(entry.get("nonMasqueradeCIDRs", ())):
            path = f"masquerade.nonMasqueradeCIDRs[{index}]"
            if ":" in text and not self.networks.dual:
                self.wrong(path, f"{text}: {IPV4_ONLY} network")
                continue
            read = partial(self.networks.ipv6_network, example=NAT_EXAMPLE) if ":" in text else self.networks.network
            if (network := read(path, text)) is not None:
                networks.append(network)
        return MasqueradeSpec(tuple(networks), self.ports("masquerade.ports", entry))

    def ports(self, path: str, entry: dict[str, Any]) -> tuple[int, int]:
        """A translation's range of source ports."""
        first, last = (int(port) for port in entry.get("ports", "1024-65535").split("-"))
        if not 0 < first <= last < 65536:
            self.wrong(path, f"{first}-{last} must be two ports from 1 to 65535, the lower one first")
            return 1024, 65535
        return first, last

    def nat_addresses(self, entry: dict[str, Any], kind: type[Address], network: Network | None) -> tuple[Address, ...]:
        """Public addresses of one family; none where the gateway has no network of it."""
        if "addresses" not in entry:
            count = entry.get("count", 1)
            if network is None:
                return ()
            if count > network.num_addresses - 2:
                self.wrong("internet.nat.count", f"{network} has {network.num_addresses - 2} addresses for the NAT")
                count = 1
            return tuple(kind(int(network[1]) + number) for number in range(count))
        found: list[Address] = []
        for index, text in enumerate(entry["addresses"]):
            path = f"internet.nat.addresses[{index}]"
            if (":" in text) != (kind is IPv6Address):
                continue
            try:
                address = kind(text)
            except ValueError:
                self.wrong(path, f"{text} is no {kind.__name__.removesuffix('Address')} address")
                continue
            if network is None:
                if "internet.nat" not in self.networks.given_ipv6():
                    self.wrong(path, f"{address}: spec.internet.nat.cidr names no IPv6 network: add one after a comma")
            elif address not in network or address in (network[0], network[-1]):
                self.wrong(path, f"{address} must be between {network[1]} and {network[-2]} (spec.internet.nat.cidr)")
            elif found and int(address) != int(found[-1]) + 1:
                self.wrong(path, f"{address} must follow {found[-1]}: write {found[-1] + 1}")
            found.append(address)
        if network is not None and not found:
            self.wrong("internet.nat.addresses", f"none is of {network}: add one, or leave this network out of cidr")
        return tuple(found)
