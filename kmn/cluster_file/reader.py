"""A cluster file as a whole: what it holds is read section by section, and all errors are told at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from kmn.cluster_file.networks import NETWORKS, Networks
from kmn.cluster_file.outside import Outside
from kmn.cluster_file.section import Section
from kmn.cluster_file.services import Services
from kmn.cluster_file.topology import Topology
from kmn.cluster_spec import ClusterSpec, NodeSpec, OutsideHost
from kmn.k8s.errors import FieldError
from kmn.k8s.schema import Report, Schemas
from kmn.k8s.yaml import YamlError, parse_documents
from kmn.units import parse_duration

__all__ = ["ClusterFileError", "load", "parse"]


class ClusterFileError(Exception):
    """A cluster file that cannot be used: ``cluster.yaml: spec.nodes[1].name: "n1" is used twice``."""

    def __init__(self, path: str, errors: Sequence[FieldError]) -> None:
        self.path = path
        self.errors = tuple(errors)
        super().__init__("\n".join(f"{path}: {error}" for error in self.errors))


def load(path: Path) -> ClusterSpec:
    """Read, parse and check a file."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ClusterFileError(str(path), [FieldError("file", f"cannot be read: {why}")]) from error
    try:
        documents = [doc for doc in parse_documents(text, str(path)) if doc.value is not None]
    except YamlError as error:
        raise ClusterFileError(
            str(path), [FieldError(f"line {error.line}, column {error.column}", error.problem)]
        ) from error
    if len(documents) != 1:
        error_ = FieldError("file", f"must hold one document of kind Cluster, holds {len(documents)}; manifests belong "
                                    "into files of their own, named under spec.manifests")  # fmt: skip
        raise ClusterFileError(str(path), [error_])
    return parse(documents[0].value, path.resolve().parent, str(path))


def parse(obj: Any, base_dir: Path, source: str) -> ClusterSpec:
    """Check a parsed file against the schema, fill in what it leaves out, check what the schema cannot say."""
    report = Report()
    _schema().definition("Cluster")(obj, None, report)
    errors = report.errors + [unknown.error for unknown in report.unknown]
    if errors:
        raise ClusterFileError(source, errors)
    reader = _Reader(obj.get("spec") or {}, [], base_dir)
    spec = reader.read(obj["metadata"]["name"])
    if reader.errors:
        raise ClusterFileError(source, reader.errors)
    assert spec is not None
    return spec


@cache
def _schema() -> Schemas:
    text = (files("kmn") / "schemas" / "cluster.schema.json").read_text()
    return Schemas(json.loads(text)["$defs"])


@dataclass
class _Reader(Section):
    """All of ``spec``, section by section."""

    base_dir: Path

    def read(self, name: str) -> ClusterSpec | None:
        addressing = Networks(self.spec, self.errors)
        networks = addressing.ipv4()
        if len(networks) < len(NETWORKS):
            return None
        topology = Topology(self.spec, self.errors, addressing)
        routers, fabric_links, edge = topology.fabric()
        nodes = topology.nodes(networks["nodeCIDR"], routers)
        mask = self.spec.get("nodeCIDRMaskSize", 24)
        addressing.check_sizes(networks, mask, len(nodes))
        ipv6 = addressing.ipv6(networks, mask, len(nodes))
        outside = Outside(self.spec, self.errors, addressing)
        services = Services(self.spec, self.errors)
        hosts = outside.hosts(networks["internet.cidr"], ipv6.internet_cidr if ipv6 else None)
        self.check_names(routers, nodes, hosts)
        delay = (self.spec.get("probes") or {}).get("initialDelay")
        return ClusterSpec(
            name=name,
            nodes=nodes,
            pod_cidr=networks["podCIDR"],
            node_pod_prefix=mask,
            service_cidr=networks["serviceCIDR"],
            node_cidr=networks["nodeCIDR"],
            cluster_domain=self.spec.get("clusterDomain", "cluster.local"),
            dns=services.dns(hosts),
            datapath=self.spec.get("datapath", "auto"),
            kube_proxy=services.kube_proxy(),
            policy=services.policy(),
            routers=routers,
            fabric_links=fabric_links,
            edge_router=edge,
            internet_cidr=networks["internet.cidr"],
            nat_cidr=networks["internet.nat"],
            nat=outside.nat(networks["internet.nat"], ipv6.nat_cidr if ipv6 else None),
            masquerade=outside.masquerade(),
            load_balancer_cidr=networks["internet.loadBalancers"],
            outside_hosts=hosts,
            manifests=self.manifests(),
            initial_delay=None if delay is None else parse_duration(delay),
            ipv6=ipv6,
            ingress=services.ingress(),
        )

    def check_names(
        self, routers: tuple[str, ...], nodes: tuple[NodeSpec, ...], hosts: tuple[OutsideHost, ...]
    ) -> None:
        """Mininet knows nodes, routers and hosts by their names alone."""
        node_names, host_names = {node.name for node in nodes}, {host.name for host in hosts}
        for name in sorted(node_names & set(routers)):
            self.wrong("nodes", f'"{name}" is the name of a node and of a router: use another name for one of them')
        for name in sorted(host_names & (node_names | set(routers))):
            other = "node" if name in node_names else "router"
            self.wrong("internet.hosts", f'"{name}" is the name of a host and of a {other}: use another name for one')

    def manifests(self) -> tuple[str, ...]:
        found: list[str] = []
        for index, text in enumerate(self.spec.get("manifests", ())):
            path = (self.base_dir / text).resolve()
            if "://" in text:
                self.wrong(
                    f"manifests[{index}]", f"{text}: addresses are not fetched; download the file and name it here"
                )
            elif not path.exists():
                self.wrong(f"manifests[{index}]", f"{text}: no such file or directory ({path})")
            found.append(str(path))
        return tuple(found)
