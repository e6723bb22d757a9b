"""Configuration from the Cluster object, and the objects that deploy the server."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from kmn.cluster_spec import ClusterSpec
from kmn.dns.config import DnsConfig
from kmn.dns.manifests import dns_objects
from kmn.k8s.dataplane import PROGRAM


def test_defaults_are_those_of_the_cluster_file() -> None:
    spec = ClusterSpec.default("demo")
    assert DnsConfig.from_cluster(spec.to_object()) == DnsConfig(upstreams=("203.0.113.10",))  # the first outside host
    assert (f"{spec.cluster_domain}.", (spec.pod_cidr, spec.service_cidr)) == (DnsConfig().domain, DnsConfig().networks)


def test_everything_can_be_said() -> None:
    dns = {"upstreams": ["203.0.113.9"], "stubDomains": {"Corp.Test": ["203.0.113.8"]}, "podRecords": "verified"}
    spec = {"clusterDomain": "K8s.example", "podCIDR": "10.1.0.0/16,fd00:1::/64", "serviceCIDR": "10.2.0.0/16"}
    config = DnsConfig.from_cluster({"spec": {**spec, "dns": dns}})
    assert config == DnsConfig(
        domain="k8s.example.",
        networks=(ip_network("10.1.0.0/16"), ip_network("fd00:1::/64"), ip_network("10.2.0.0/16")),
        pod_records="verified",
        upstreams=("203.0.113.9",),
        stub_domains={"corp.test.": ("203.0.113.8",)},
    )
    assert config.upstreams_of("a.b.corp.test.") == config.upstreams_of("corp.test.") == ("203.0.113.8",)
    assert config.upstreams_of("notcorp.test.") == ("203.0.113.9",)


@pytest.mark.parametrize(
    ("dns", "message"),
    [
        ({"podRecords": "sure"}, "spec.dns.podRecords: 'sure': must be one of insecure, verified, disabled"),
        ({"upstreams": ["dns.example"]}, "spec.dns.upstreams: 'dns.example' does not"),
        ({"stubDomains": {"a.test": ["x"]}}, r"spec.dns.stubDomains\[a.test\]: 'x' does not"),
    ],
)
def test_errors_name_the_field(dns: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DnsConfig.from_cluster({"spec": {"dns": dns}})


def test_objects_belong_together() -> None:
    spec = ClusterSpec.default("demo")
    account, deployment, service = dns_objects(spec)
    pod = deployment["spec"]["template"]
    assert pod["spec"]["serviceAccountName"] == account["metadata"]["name"]
    assert pod["metadata"]["annotations"] == {PROGRAM: "dns"}
    selector = service["spec"]["selector"].items()
    assert selector <= pod["metadata"]["labels"].items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert service["spec"]["clusterIP"] == str(spec.dns_address)
    [container] = pod["spec"]["containers"]
    declared = {(port["containerPort"], port["protocol"]) for port in container["ports"]}
    assert {(port["targetPort"], port["protocol"]) for port in service["spec"]["ports"]} <= declared
    names = {port["name"] for port in container["ports"]}
    assert {container[probe]["httpGet"]["port"] for probe in ("livenessProbe", "readinessProbe")} <= names
    assert {obj["metadata"]["namespace"] for obj in (account, deployment, service)} == {"kube-system"}
