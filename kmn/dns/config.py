"""What the cluster file says about DNS, read from the ``Cluster`` object.

``spec.clusterDomain``, ``podCIDR``, ``serviceCIDR``, and ``spec.dns``: ``upstreams: [ADDRESS]``,
``stubDomains: {DOMAIN: [ADDRESS]}``, ``podRecords: insecure | verified | disabled``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, Literal, get_args

__all__ = ["DnsConfig", "PodRecords"]

# Which names a-b-c-d.NAMESPACE.pod exist: any address (the specification, §2.6), addresses of pods, none.
PodRecords = Literal["insecure", "verified", "disabled"]


@dataclass(frozen=True, slots=True)
class DnsConfig:
    """How the server answers. Domains are absolute and in lower case."""

    domain: str = "cluster.local."
    networks: tuple[IPv4Network | IPv6Network, ...] = (IPv4Network("10.244.0.0/16"), IPv4Network("10.96.0.0/12"))
    pod_records: PodRecords = "insecure"
    upstreams: tuple[str, ...] = ()
    stub_domains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def from_cluster(cls, cluster: Mapping[str, Any]) -> DnsConfig:
        """Raises ValueError, naming the field, for what the cluster file's schema should have refused."""
        spec = cluster.get("spec") or {}
        dns = spec.get("dns") or {}
        default = cls()
        cidrs = [spec[name] for name in ("podCIDR", "serviceCIDR") if spec.get(name)]
        pod_records = dns.get("podRecords", default.pod_records)
        if pod_records not in get_args(PodRecords):
            raise ValueError(f"spec.dns.podRecords: {pod_records!r}: must be one of {', '.join(get_args(PodRecords))}")
        return cls(
            domain=_absolute(spec.get("clusterDomain") or default.domain),
            networks=tuple(ip_network(part) for cidr in cidrs for part in cidr.split(",")) or default.networks,
            pod_records=pod_records,
            upstreams=_addresses("spec.dns.upstreams", dns.get("upstreams")),
            stub_domains={
                _absolute(domain): _addresses(f"spec.dns.stubDomains[{domain}]", servers)
                for domain, servers in (dns.get("stubDomains") or {}).items()
            },
        )

    def upstreams_of(self, name: str) -> tuple[str, ...]:
        """Servers to ask for a name that is not the cluster's: those of the longest stub domain, or the upstreams."""
        while name:
            if name in self.stub_domains:
                return self.stub_domains[name]
            name = name.partition(".")[2]
        return self.upstreams


def _absolute(domain: str) -> str:
    return domain.strip(".").lower() + "."


def _addresses(path: str, values: Any) -> tuple[str, ...]:
    try:
        return tuple(str(ip_address(value)) for value in values or ())
    except ValueError as error:
        raise ValueError(f"{path}: {error}: a list of addresses of DNS servers is expected") from None
