"""resolv.conf and hosts of pods, word by word."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import pytest

from kmn.cluster_spec import ClusterSpec, NodeSpec
from kmn.emulator.podfiles import hosts, node_resolv_conf, resolv_conf

SPEC = ClusterSpec("he", (NodeSpec("n1", IPv4Address("172.18.0.2")),))
NODE = "search lan\nnameserver 192.0.2.1\noptions rotate\n"
CLUSTER = "search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n"


def pod(**spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "web-0", "namespace": "shop"},
        "spec": spec,
        "status": {"podIPs": [{"ip": "10.244.1.7"}]},
    }


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({}, CLUSTER),
        ({"dnsPolicy": "ClusterFirst", "hostNetwork": True}, NODE),
        ({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": True}, CLUSTER),
        ({"dnsPolicy": "Default"}, NODE),
        (
            {
                "dnsPolicy": "None",
                "dnsConfig": {"nameservers": ["192.0.2.9"], "searches": ["a.b"], "options": [{"name": "edns0"}]},
            },
            "search a.b\nnameserver 192.0.2.9\noptions edns0\n",
        ),
        (
            {"dnsConfig": {"nameservers": ["10.96.0.10", "192.0.2.9"], "options": [{"name": "ndots", "value": "2"}]}},
            CLUSTER.replace("ndots:5", "ndots:2").replace("10.96.0.10\n", "10.96.0.10\nnameserver 192.0.2.9\n"),
        ),
    ],
)
def test_resolv_conf(spec: dict[str, Any], text: str) -> None:
    assert resolv_conf(pod(**spec), SPEC, NODE) == text


def test_hosts_with_subdomain_and_aliases() -> None:
    text = hosts(pod(subdomain="web", hostAliases=[{"ip": "192.0.2.7", "hostnames": ["a", "b"]}]), SPEC)
    lines = text.splitlines()
    assert lines[:2] == ["# Kubernetes-managed hosts file.", "127.0.0.1\tlocalhost"]
    assert lines[7:] == [
        "10.244.1.7\tweb-0.web.shop.svc.cluster.local\tweb-0",
        "",
        "# Entries added by HostAliases.",
        "192.0.2.7\ta\tb",
    ]


def test_nodes_ask_outside() -> None:
    assert node_resolv_conf(ClusterSpec.default("demo")) == "nameserver 203.0.113.10\n"
