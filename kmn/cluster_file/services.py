"""What serves in a cluster: kube-proxy, policies, ingress controllers, DNS."""

from __future__ import annotations

import re
from ipaddress import IPv4Address
from typing import Any

from kmn.cluster_file.section import Section
from kmn.cluster_spec import DnsSpec, IngressController, KubeProxySpec, OutsideHost, PolicySpec
from kmn.k8s.dataplane import INGRESS_CONTROLLERS, IPVS_SCHEDULERS
from kmn.k8s.schema import did_you_mean

__all__ = ["Services"]

_DOMAIN = re.compile(r"([a-z0-9_]([-a-z0-9_]*[a-z0-9])?\.)*[a-z0-9]([-a-z0-9]*[a-z0-9])?\.?")


class Services(Section):
    """``spec.kubeProxy``, ``spec.policy``, ``spec.ingress`` and ``spec.dns``."""

    def kube_proxy(self) -> KubeProxySpec:
        """As kube-proxy's configuration has it; what it would ignore is refused."""
        entry = self.spec.get("kubeProxy") or {}
        mode = entry.get("mode", "iptables")
        if mode == "ipvs":
            return KubeProxySpec(mode, (entry.get("ipvs") or {}).get("scheduler", IPVS_SCHEDULERS[0]))
        if entry.get("ipvs"):
            self.wrong("kubeProxy.ipvs", f"is of mode ipvs only, spec.kubeProxy.mode is {mode}: write mode: ipvs")
        return KubeProxySpec(mode)

    def ingress(self) -> tuple[IngressController, ...] | None:
        """A controller is its name, or fields. Of a name that is not known ``spec.controller`` is made from it."""
        entry = self.spec.get("ingress") or {}
        if "controllers" not in entry:
            return None
        found: list[IngressController] = []
        for each in entry["controllers"]:
            fields: dict[str, Any] = {"name": each} if isinstance(each, str) else each
            known = INGRESS_CONTROLLERS.get(fields["name"], f"kmn.io/ingress-{fields['name']}")
            controller = fields.get("controller", known)
            found.append(IngressController(fields["name"], controller, fields.get("default", False)))
        for what, values in (
            ("name", [each.name for each in found]),
            ("controller", [each.controller for each in found]),
        ):
            self.unique((f"ingress.controllers[{i}].{what}", value) for i, value in enumerate(values))
        defaults = [f"ingress.controllers[{i}].default" for i, each in enumerate(found) if each.default]
        for path in defaults[1:]:
            self.wrong(path, f"spec.{defaults[0]} is the default already: there can be one")
        return tuple(found)

    def policy(self) -> PolicySpec:
        entry = self.spec.get("policy") or {}
        return PolicySpec(entry.get("establishedConnections", "keep"), entry.get("log", "denied"))

    def dns(self, hosts: tuple[OutsideHost, ...]) -> DnsSpec:
        """Servers are outside hosts by name, or addresses. The first outside host is the default."""
        entry = self.spec.get("dns") or {}
        first = [host.name for host in hosts[:1]]
        stubs: dict[str, tuple[IPv4Address, ...]] = {}
        cluster_domain = self.spec.get("clusterDomain", "cluster.local")
        for domain, servers in (entry.get("stubDomains") or {}).items():
            path = f"dns.stubDomains[{domain}]"
            if not _DOMAIN.fullmatch(domain.lower()):
                self.wrong(path, f'"{domain}" is no DNS domain: write one such as corp.example')
            if f".{cluster_domain}".endswith(f".{domain.strip('.').lower()}"):
                self.wrong(path, f"{cluster_domain} lies in it, and is this cluster's own: use another domain")
            stubs[domain] = self.servers(path, servers, hosts)
        return DnsSpec(
            upstreams=self.servers("dns.upstreams", entry.get("upstreams", first), hosts),
            stub_domains=stubs,
            pod_records=entry.get("podRecords", "insecure"),
        )

    def servers(self, path: str, names: list[str], hosts: tuple[OutsideHost, ...]) -> tuple[IPv4Address, ...]:
        known = {host.name: host.address for host in hosts}
        found = []
        for index, name in enumerate(names):
            try:
                found.append(known[name] if name in known else IPv4Address(name))
            except ValueError:
                hint = did_you_mean(name, known) or f"; outside hosts are {', '.join(known) or 'none'}"
                self.wrong(f"{path}[{index}]", f'"{name}" is neither an IPv4 address nor an outside host{hint}')
        return tuple(found)
