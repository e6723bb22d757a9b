"""The cluster file: what it takes, what it fills in, what it refuses and in which words."""

from __future__ import annotations

import json
from importlib.resources import files
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from kmn.cluster_file import ClusterFileError
from kmn.cluster_spec import ClusterSpec, IngressController, KubeProxySpec, Link, MasqueradeSpec, PolicySpec

SCHEMA = json.loads((files("kmn") / "schemas" / "cluster.schema.json").read_text())


def cluster(spec: dict[str, Any] | None = None, name: str = "test") -> dict[str, Any]:
    return {"apiVersion": "kmn.io/v1", "kind": "Cluster", "metadata": {"name": name}, "spec": spec or {}}


def parsed(spec: dict[str, Any] | None = None) -> ClusterSpec:
    return ClusterSpec.parse(cluster(spec))


FULL: dict[str, Any] = {
    "nodes": [
        {
            "name": "a",
            "router": "r1",
            "labels": {"zone": "a"},
            "annotations": {"note": "x"},
            "taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}],
            "uplink": {"bandwidth": "1Gbit", "delay": "0.1ms", "jitter": "10us", "loss": 0.1},
            "podLink": {"bandwidth": "1.5Mbit"},
        },
        {"count": 2, "router": "r2"},
        {"name": "b", "router": "r2", "address": "10.0.0.9"},
    ],
    "nodeCIDR": "10.0.0.0/24",
    "podCIDR": "10.1.0.0/20",
    "nodeCIDRMaskSize": 26,
    "serviceCIDR": "10.2.0.0/16",
    "clusterDomain": "k8s.test",
    "datapath": "netdev",
    "kubeProxy": {"mode": "ipvs", "ipvs": {"scheduler": "sh"}},
    "policy": {"establishedConnections": "cut", "log": "all"},
    "fabric": {"routers": ["r1", "r2"], "links": [{"ends": ["r1", "r2"], "delay": "2s"}], "edge": "r2"},
    "internet": {
        "cidr": "192.0.2.0/24",
        "nat": {
            "cidr": "198.51.100.0/28",
            "count": 3,
            "ports": "2000-2999",
            "perDestinationLimit": 4,
            "outgoing": False,
        },
        "loadBalancers": "203.0.113.0/24",
        "hosts": [{"name": "e1"}, {"name": "e2", "address": "192.0.2.10", "link": {"loss": 1}, "dns": False}],
    },
    "dns": {"upstreams": ["e2", "192.0.2.99"], "stubDomains": {"corp.test": ["e1"]}, "podRecords": "verified"},
    "probes": {"initialDelay": "0s"},
    "masquerade": {"nonMasqueradeCIDRs": ["192.168.0.0/16"], "ports": "2000-2999"},
    "ingress": {"controllers": ["nginx", {"name": "kmn", "controller": "example.com/kmn", "default": True}]},
}


def test_defaults() -> None:
    spec = ClusterSpec.default("demo")
    assert spec.name == "demo"
    assert [(node.name, str(node.address), node.router) for node in spec.nodes] == [
        ("n1", "172.18.0.2", "fabric"),
        ("n2", "172.18.0.3", "fabric"),
    ]
    assert [(host.name, str(host.address)) for host in spec.outside_hosts] == [("e1", "203.0.113.10")]
    assert spec.pod_cidr == IPv4Network("10.244.0.0/16")
    assert spec.initial_delay is None
    assert spec.kube_proxy == KubeProxySpec("iptables")
    assert spec.policy == PolicySpec("keep", "denied")
    assert parsed({"kubeProxy": {"mode": "ipvs"}}).kube_proxy == KubeProxySpec("ipvs", "rr")


@pytest.mark.parametrize(
    ("spec", "networks"),
    [
        ({"ipFamily": "dual"}, ("fd00:10:244::/48", 64, "fd00:10:96::/112", "fd00:172:18::/64")),
        ({"podCIDR": "10.1.0.0/16,fd01::/56"}, ("fd01::/56", 64, "fd00:10:96::/112", "fd00:172:18::/64")),
        (
            {
                "podCIDR": "10.1.0.0/16,fd01::/100",
                "nodeCIDRMaskSizeIPv6": 112,
                "serviceCIDR": "10.2.0.0/16,fd02::/108",
                "nodeCIDR": "10.3.0.0/24,fd03::/120",
            },
            ("fd01::/100", 112, "fd02::/108", "fd03::/120"),
        ),
    ],
)
def test_dual_stack(spec: dict[str, Any], networks: tuple[str, int, str, str]) -> None:
    made = parsed(spec)
    ipv6 = made.ipv6
    assert ipv6 is not None
    found = (str(ipv6.pod_cidr), ipv6.node_pod_prefix, str(ipv6.service_cidr), str(ipv6.node_cidr))
    assert found == networks
    assert made.ipv6_of(made.nodes[0].address) == ipv6.node_cidr[2]
    assert ipv6.dns_address == ipv6.service_cidr[10]
    assert [network.version for network in made.service_cidrs] == [4, 6]
    assert ClusterSpec.from_object(made.to_object()) == made


OUTSIDE = {
    "internet": {
        "cidr": "203.0.113.0/24,2001:db8:1::/64",
        "nat": {"cidr": "198.51.100.0/24,2001:db8:2::/64", "count": 2},
        "loadBalancers": "192.0.2.0/24,2001:db8:3::/120",
        "hosts": [{"name": "e1"}, {"name": "e2", "address": "203.0.113.12,2001:db8:1::99"}],
    },
    "masquerade": {"nonMasqueradeCIDRs": ["192.168.0.0/16", "2001:db8:1::/64"]},
}


def test_the_outside_of_dual_stack() -> None:
    """Hosts have the same number in both networks unless they ask for another; the NAT is of IPv4 unless given more."""
    made = parsed({"ipFamily": "dual", "internet": {"hosts": [{"name": "e1"}, {"name": "e2"}]}})
    assert [str(host.ipv6) for host in made.outside_hosts] == ["2001:db8:203::a", "2001:db8:203::b"]
    assert made.ipv6 is not None
    assert (str(made.ipv6.edge_address), str(made.ipv6.load_balancer_cidr)) == ("2001:db8:203::1", "2001:db8:192::/112")
    assert (made.ipv6.nat_cidr, made.nat.ipv6_addresses) == (None, ())
    made = parsed(OUTSIDE)
    assert made.ipv6 is not None, "a network of each family makes the cluster dual-stack"
    assert [str(host.ipv6) for host in made.outside_hosts] == ["2001:db8:1::a", "2001:db8:1::99"]
    assert [str(address) for address in made.nat.ipv6_addresses] == ["2001:db8:2::1", "2001:db8:2::2"]
    assert str(made.ipv6.load_balancer_cidr) == "2001:db8:3::/120"
    assert made.masquerade == MasqueradeSpec((IPv4Network("192.168.0.0/16"), IPv6Network("2001:db8:1::/64")))
    assert parsed().outside_hosts[0].ipv6 is None


def test_ipv4_only_is_the_default() -> None:
    made = parsed()
    assert made.ipv6 is None
    assert made.ipv6_of(IPv4Address("172.18.0.2")) is None
    assert made.service_cidrs == (IPv4Network("10.96.0.0/12"),)
    assert made.to_object()["spec"]["podCIDR"] == "10.244.0.0/16"


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (
            {"podCIDR": "fd01::/56,10.1.0.0/16"},
            "spec.podCIDR: must be an IPv4 network such as 10.244.0.0/16, or for dual",
        ),
        ({"ipFamily": "ipv6"}, 'spec.ipFamily: must be one of "ipv4", "dual"'),
        (
            {"ipFamily": "ipv4", "serviceCIDR": "10.96.0.0/12,fd02::/112"},
            "spec.serviceCIDR: fd02::/112: the cluster is IPv4 only: use ipFamily: dual, or remove this network",
        ),
        (
            {"nodeCIDRMaskSizeIPv6": 64},
            "spec.nodeCIDRMaskSizeIPv6: for dual-stack only: use ipFamily: dual, or remove it",
        ),
        ({"podCIDR": "10.1.0.0/16,fd01::1/56"}, "spec.podCIDR: fd01::1/56 has host bits set: write fd01::/56"),
        ({"podCIDR": "10.1.0.0/16,fd01:::/56"}, "spec.podCIDR: fd01:::/56 is no IPv6 network"),
        ({"podCIDR": "10.1.0.0/16,fe80::/56"}, "overlaps the link-local addresses fe80::/10"),
        ({"podCIDR": "10.1.0.0/16,fd6b:6d6e::/32"}, "overlaps the kmn's own addresses fd6b:6d6e::/64"),
        ({"podCIDR": "10.1.0.0/16,fd00:10:96::/48"}, "overlaps spec.serviceCIDR fd00:10:96::/112"),
        (
            {"serviceCIDR": "10.96.0.0/12,fd02::/96"},
            "spec.serviceCIDR: fd02::/96 must have a prefix length between 108",
        ),
        ({"nodeCIDR": "10.3.0.0/16,fd03::/120"}, "must have a prefix length of 112 or less, to hold as many nodes as"),
        ({"podCIDR": "10.1.0.0/16,fd01::/65"}, "spec.nodeCIDRMaskSizeIPv6: /64 does not fit into podCIDR fd01::/65"),
        (
            {"podCIDR": "10.1.0.0/16,fd01::/64"},
            "spec.podCIDR: fd01::/64 holds 1 node networks of /64, there are 2 nodes",
        ),
        ({"ipFamily": "dual", "nodeCIDRMaskSizeIPv6": 121}, "/121 must be 120 or less, to hold as many pods as"),
        (
            {"ipFamily": "ipv4", "internet": {"cidr": "203.0.113.0/24,2001:db8::/64"}},
            "spec.internet.cidr: 2001:db8::/64: the cluster is IPv4 only: use ipFamily: dual, or remove this network",
        ),
        ({"internet": {"cidr": "203.0.113.0/24,2001:db8::/121"}}, "120 or less, to hold as many hosts as 203.0.113.0"),
        (
            {"internet": {"loadBalancers": "192.0.2.0/24,2001:db8::/64"}},
            "spec.internet.loadBalancers: 2001:db8::/64 must have a prefix length between 108 and 126",
        ),
        (
            {"internet": {"loadBalancers": "192.0.2.0/24,2001:db8:203::/112"}},
            "spec.internet.cidr: 2001:db8:203::/64 overlaps spec.internet.loadBalancers 2001:db8:203::/112",
        ),
        ({"internet": {"nat": "198.51.100.0/24,2001:db8::/127"}}, "spec.internet.nat: 2001:db8::/127 must have a"),
        (
            {"ipFamily": "dual", "internet": {"nat": {"addresses": ["198.51.100.1", "2001:db8:198::1"]}}},
            "spec.internet.nat.addresses[1]: 2001:db8:198::1: spec.internet.nat.cidr names no IPv6 network: add one",
        ),
        (
            {"internet": {"nat": {"cidr": "198.51.100.0/24,2001:db8:198::/64", "addresses": ["198.51.100.1"]}}},
            "spec.internet.nat.addresses: none is of 2001:db8:198::/64: add one, or leave this network out of cidr",
        ),
        (
            {"internet": {"hosts": [{"name": "e1", "address": "203.0.113.5,2001:db8:203::5"}]}},
            "spec.internet.hosts[0].address: 2001:db8:203::5: the cluster is IPv4 only: use ipFamily: dual, or remove",
        ),
        (
            {"ipFamily": "dual", "internet": {"hosts": [{"name": "e1", "address": "203.0.113.5,2001:db8::5"}]}},
            "spec.internet.hosts[0].address: 2001:db8::5 must be between 2001:db8:203::2 and",
        ),
        (
            {
                "ipFamily": "dual",
                "internet": {"hosts": [{"name": "a"}, {"name": "b", "address": "203.0.113.9,2001:db8:203::a"}]},
            },
            "spec.internet.hosts[0].address: 2001:db8:203::a, the IPv6 address with the number of 203.0.113.10, is an",
        ),
        (
            {"masquerade": {"nonMasqueradeCIDRs": ["2001:db8::/64"]}},
            "spec.masquerade.nonMasqueradeCIDRs[0]: 2001:db8::/64: the cluster is IPv4 only: use ipFamily: dual, or",
        ),
    ],
)
def test_wrong_networks_of_dual_stack(spec: dict[str, Any], told: str) -> None:
    with pytest.raises(ClusterFileError) as refused:
        parsed(spec)
    assert told in str(refused.value)


def test_every_field() -> None:
    spec = parsed(FULL)
    assert [node.name for node in spec.nodes] == ["a", "n2", "n3", "b"]
    assert [str(node.address) for node in spec.nodes] == ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.9"]
    assert spec.nodes[0].uplink == Link(bandwidth=10**9, delay=1e-4, jitter=1e-5, loss=0.1)
    assert spec.nodes[0].pod_link == Link(bandwidth=1_500_000)
    assert spec.nodes[0].taints == ({"key": "k", "value": "v", "effect": "NoSchedule"},)
    assert [str(host.address) for host in spec.outside_hosts] == ["192.0.2.11", "192.0.2.10"]
    assert spec.fabric_links[0].link.delay == 2.0
    assert [host.dns for host in spec.outside_hosts] == [True, False]
    assert [str(address) for address in spec.nat.addresses] == ["198.51.100.1", "198.51.100.2", "198.51.100.3"]
    assert (spec.nat.ports, spec.nat.outgoing) == ((2000, 2003), False)
    assert str(spec.load_balancer_cidr) == "203.0.113.0/24"
    assert spec.kube_proxy == KubeProxySpec("ipvs", "sh")
    assert (spec.edge_router, spec.datapath, spec.node_pod_prefix, spec.initial_delay) == ("r2", "netdev", 26, 0.0)


@pytest.mark.parametrize(
    "spec",
    [
        None,
        FULL,
        OUTSIDE,
        {"ipFamily": "dual"},
        {"internet": {"hosts": []}, "nodes": [{"count": 60}]},
        {"masquerade": True},
    ],
)
def test_the_object_is_a_cluster_file_again(spec: dict[str, Any] | None) -> None:
    before = parsed(spec)
    obj = json.loads(json.dumps(before.to_object()))
    jsonschema.Draft202012Validator(SCHEMA).validate(obj)
    obj["metadata"].update(uid="1", resourceVersion="5")
    assert ClusterSpec.from_object(obj) == before


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (None, None),
        (False, None),
        (True, MasqueradeSpec()),
        ({}, MasqueradeSpec()),
        (FULL["masquerade"], MasqueradeSpec((IPv4Network("192.168.0.0/16"),), (2000, 2999))),
    ],
)
def test_masquerade(written: Any, meant: MasqueradeSpec | None) -> None:
    assert parsed({} if written is None else {"masquerade": written}).masquerade == meant


def test_ingress_controllers() -> None:
    assert parsed({}).ingress is None
    assert parsed({"ingress": {"controllers": []}}).ingress == ()
    assert parsed(FULL).ingress == (
        IngressController("nginx", "k8s.io/ingress-nginx"),
        IngressController("kmn", "example.com/kmn", default=True),
    )
    assert parsed({"ingress": {"controllers": ["own"]}}).ingress == (IngressController("own", "kmn.io/ingress-own"),)


def test_dns_servers_are_hosts_by_name_or_addresses() -> None:
    dns = parsed(FULL).dns
    assert [str(server) for server in dns.upstreams] == ["192.0.2.10", "192.0.2.99"]
    assert dns.stub_domains == {"corp.test": (parsed(FULL).outside_hosts[0].address,)}
    assert dns.pod_records == "verified"


def test_names_outside_are_the_first_outside_hosts_to_answer() -> None:
    spec = parsed({"internet": {"hosts": [{"name": "x"}, {"name": "y"}]}})
    assert spec.dns.upstreams == (spec.outside_hosts[0].address,)
    assert parsed({"internet": {"hosts": []}}).dns.upstreams == ()
    assert parsed({"dns": {"upstreams": []}}).dns.upstreams == ()


def test_count_goes_on_with_the_numbers_and_skips_names_in_use() -> None:
    spec = parsed({"nodes": [{"name": "n1"}, {"name": "n2"}, {"count": 2}, {"name": "n4"}, {}]})
    assert [node.name for node in spec.nodes] == ["n1", "n2", "n3", "n5", "n4", "n6"]


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (
            {"internet": {"nat": "198.51.100.0"}},
            "spec.internet.nat: must be an IPv4 network such as 198.51.100.0/24, or",
        ),
        ({"internet": {"nat": {"port": "1-2"}}}, 'spec.internet.nat.port: unknown field, did you mean "ports"?'),
        ({"internet": {"nat": {"ports": "9-8"}}}, "spec.internet.nat.ports: 9-8 must be two ports from 1 to 65535"),
        (
            {"internet": {"nat": {"ports": "9-18", "perDestinationLimit": 11}}},
            "spec.internet.nat.perDestinationLimit: 11 is more than the 10 ports of 9-18",
        ),
        ({"internet": {"nat": {"count": 255}}}, "spec.internet.nat.count: 198.51.100.0/24 has 254 addresses"),
        (
            {"internet": {"nat": {"addresses": ["198.51.100.7", "198.51.100.9"]}}},
            "spec.internet.nat.addresses[1]: 198.51.100.9 must follow 198.51.100.7: write 198.51.100.8",
        ),
        ({"masquerade": {"ports": "9-8"}}, "spec.masquerade.ports: 9-8 must be two ports from 1 to 65535"),
        (
            {"masquerade": {"nonMasqueradeCIDRs": ["10.0.0.1/8"]}},
            "spec.masquerade.nonMasqueradeCIDRs[0]: 10.0.0.1/8 has host bits set: write 10.0.0.0/8",
        ),
        ({"internet": {"loadBalancers": "192.0.2.0/31"}}, "spec.internet.loadBalancers: 192.0.2.0/31 must have"),
        ({"internet": {"cidr": "192.0.2.0/24"}}, "overlaps spec.internet.loadBalancers 192.0.2.0/24"),
        (
            {"ingress": {"controllers": ["nginx", {"name": "nginx", "controller": "a/b"}]}},
            'spec.ingress.controllers[1].name: "nginx" is used twice',
        ),
        (
            {"ingress": {"controllers": ["nginx", {"name": "b", "controller": "k8s.io/ingress-nginx"}]}},
            'spec.ingress.controllers[1].controller: "k8s.io/ingress-nginx" is used twice',
        ),
        (
            {"ingress": {"controllers": [{"name": "a", "default": True}, {"name": "b", "default": True}]}},
            "spec.ingress.controllers[1].default: spec.ingress.controllers[0].default is the default already",
        ),
        ({"ingress": {"controllers": [{"name": "a", "controller": "b"}]}}, "must be a path with a domain before it"),
        ({"nods": []}, 'spec.nods: unknown field, did you mean "nodes"?'),
        (
            {"nodes": [{"uplink": {"bandwith": "1Gbit"}}]},
            'spec.nodes[0].uplink.bandwith: unknown field, did you mean "ban',
        ),
        ({"nodes": [{"uplink": {"bandwidth": 5}}]}, "spec.nodes[0].uplink.bandwidth: must be a string, is 5"),
        (
            {"nodes": [{"uplink": {"bandwidth": "5"}}]},
            'with its unit (bit, Kbit, Mbit or Gbit per second) such as "100',
        ),
        ({"nodes": [{"uplink": {"delay": "1"}}]}, 'must be a time with its unit (us, ms or s) such as "1ms", is "1"'),
        ({"nodes": [{"uplink": {"loss": 101}}]}, "spec.nodes[0].uplink.loss: must be between 0 and 100, is 101"),
        ({"nodes": []}, "spec.nodes: needs at least 1 entries, has 0"),
        (
            {"nodes": [{"name": "a"}, {"name": "a"}]},
            'spec.nodes[1].name: "a" is used twice, here and in spec.nodes[0].name',
        ),
        ({"nodes": [{"name": "A_1"}]}, "spec.nodes[0].name: must be a DNS label"),
        ({"nodes": [{"name": "a", "count": 2}]}, "spec.nodes[0].name: not together with count"),
        (
            {"nodes": [{"name": "a", "address": "1.2.3.4"}]},
            "spec.nodes[0].address: 1.2.3.4 must be between 172.18.0.2 and",
        ),
        ({"nodes": [{"address": "172.18.0.9"}, {"address": "172.18.0.9"}]}, "is the address of spec.nodes[0] already"),
        (
            {"nodes": [{"count": 300}]},
            "spec.podCIDR: 10.244.0.0/16 holds 256 node networks of /24, there are 300 nodes",
        ),
        (
            {"nodes": [{"count": 9}], "nodeCIDR": "10.0.0.0/29"},
            "spec.nodeCIDR: 10.0.0.0/29 has no address left for node n6",
        ),
        ({"nodeCIDRMaskSize": 15}, "spec.nodeCIDRMaskSize: /15 does not fit into podCIDR 10.244.0.0/16"),
        ({"podCIDR": "10.100.0.0/16"}, "spec.podCIDR: 10.100.0.0/16 overlaps spec.serviceCIDR 10.96.0.0/12"),
        (
            {"internet": {"cidr": "172.18.3.0/24"}},
            "spec.nodeCIDR: 172.18.0.0/16 overlaps spec.internet.cidr 172.18.3.0/24",
        ),
        ({"podCIDR": "10.1.2.3/16"}, "spec.podCIDR: 10.1.2.3/16 has host bits set: write 10.1.0.0/16"),
        ({"podCIDR": "10.300.0.0/16"}, "spec.podCIDR: 10.300.0.0/16 is no IPv4 network"),
        ({"podCIDR": "fd00::/64"}, "spec.podCIDR: must be an IPv4 network such as 10.244.0.0/16"),
        ({"podCIDR": "127.0.0.0/16"}, "overlaps the loopback addresses 127.0.0.0/8"),
        ({"serviceCIDR": "10.0.0.0/8"}, "spec.serviceCIDR: 10.0.0.0/8 must have a prefix length between 12 and 27"),
        ({"datapath": "kernel"}, 'spec.datapath: must be one of "auto", "system", "netdev"; is "kernel"'),
        (
            {"nodes": [{"router": "fabrik"}]},
            'no router "fabrik" in spec.fabric.routers (fabric), did you mean "fabric"?',
        ),
        ({"fabric": {"routers": ["a", "a"]}}, 'spec.fabric.routers[1]: "a" is used twice'),
        ({"fabric": {"routers": ["a", "b"]}}, "spec.fabric.links: no way from a to b"),
        (
            {"fabric": {"routers": ["a", "b"]}},
            "spec.nodes[0].router: required, as the fabric has several routers: one of a, b",
        ),
        ({"fabric": {"links": [{"ends": ["fabric", "fabric"]}]}}, "a link needs two different routers"),
        ({"fabric": {"links": [{"ends": ["fabric"]}]}}, "spec.fabric.links[0].ends: needs at least 2 entries, has 1"),
        ({"fabric": {"edge": "x"}}, 'spec.fabric.edge: no router "x"'),
        ({"internet": {"hosts": [{"name": "e"}, {"name": "e"}]}}, 'spec.internet.hosts[1].name: "e" is used twice'),
        ({"internet": {"hosts": [{"name": "n1"}]}}, 'spec.internet.hosts: "n1" is the name of a host and of a node'),
        ({"nodes": [{"name": "fabric"}]}, 'spec.nodes: "fabric" is the name of a node and of a router'),
        ({"manifests": ["absent.yaml"]}, "spec.manifests[0]: absent.yaml: no such file or directory"),
        ({"manifests": ["https://x/y.yaml"]}, "spec.manifests[0]: https://x/y.yaml: addresses are not fetched"),
        ({"dns": {"upstreams": ["e3"]}}, 'spec.dns.upstreams[0]: "e3" is neither an IPv4 address nor an outside host'),
        ({"dns": {"stubDomains": {"a b": ["e1"]}}}, 'spec.dns.stubDomains[a b]: "a b" is no DNS domain'),
        (
            {"dns": {"stubDomains": {"local": ["e1"]}}},
            "spec.dns.stubDomains[local]: cluster.local lies in it, and is this cluster's own: use another domain",
        ),
        (
            {"policy": {"establishedConnections": "drop"}},
            'spec.policy.establishedConnections: must be one of "keep", "cut"; is "drop"',
        ),
        (
            {"kubeProxy": {"mode": "ipsv"}},
            'spec.kubeProxy.mode: must be one of "iptables", "nftables", "ipvs"; is "ipsv", did you mean "ipvs"?',
        ),
        ({"kubeProxy": {"mode": "userspace"}}, 'is "userspace", which is not emulated: it is no more in kube-proxy'),
        (
            {"kubeProxy": {"mode": "ipvs", "ipvs": {"scheduler": "sed"}}},
            'must be one of "rr", "wrr", "lc", "wlc", "sh"; is "sed", which is not emulated: it differs from',
        ),
        (
            {"kubeProxy": {"mode": "nftables", "ipvs": {"scheduler": "rr"}}},
            "spec.kubeProxy.ipvs: is of mode ipvs only, spec.kubeProxy.mode is nftables: write mode: ipvs",
        ),
        ({"kubeProxy": {"ipvs": {"schedular": "rr"}}}, 'unknown field, did you mean "scheduler"?'),
    ],
)
def test_what_is_wrong_is_told_by_field_and_remedy(spec: dict[str, Any], told: str) -> None:
    with pytest.raises(ClusterFileError) as refused:
        parsed(spec)
    assert told in str(refused.value)


@pytest.mark.parametrize("name", ["", "a.b", "Demo", "-a", "x" * 41])
def test_names_are_short_dns_labels(name: str) -> None:
    with pytest.raises(ClusterFileError, match="DNS label"):
        ClusterSpec.default(name)


def test_all_errors_are_told_at_once() -> None:
    with pytest.raises(ClusterFileError) as refused:
        parsed({"nodes": [{"name": "a"}, {"name": "a"}], "podCIDR": "10.96.0.0/16", "fabric": {"edge": "x"}})
    assert [error.path for error in refused.value.errors] == ["spec.podCIDR", "spec.fabric.edge", "spec.nodes[1].name"]


def test_a_wrong_network_is_told_once() -> None:
    """What else needs it is not told to be wrong."""
    internet = {
        "nat": {"cidr": "198.51.100.0/24,2001:db8::/64", "addresses": ["198.51.100.1", "2001:db8::1"]},
        "hosts": [{"name": "e1", "address": "203.0.113.9,2001:db8::9"}],
    }
    masquerade = {"nonMasqueradeCIDRs": ["fd99::/64"]}
    with pytest.raises(ClusterFileError) as refused:
        parsed({"podCIDR": "10.1.0.0/16,fd01:::/56", "internet": internet, "masquerade": masquerade})
    assert [error.path for error in refused.value.errors] == ["spec.podCIDR"]


def test_load_names_file_and_place(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("apiVersion: kmn.io/v1\nkind: Cluster\nkind: Cluster\n")
    with pytest.raises(ClusterFileError, match=r'c.yaml: line 3, column 1: key "kind" is given twice'):
        ClusterSpec.load(path)
    path.write_text("apiVersion: kmn.io/v1\nkind: Cluster\nmetadata: {name: a}\n---\nkind: Pod\n")
    with pytest.raises(ClusterFileError, match="one document of kind Cluster, holds 2"):
        ClusterSpec.load(path)
    with pytest.raises(ClusterFileError, match=r"absent.yaml: file: cannot be read: No such file or directory"):
        ClusterSpec.load(tmp_path / "absent.yaml")


def test_manifests_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text("")
    path = tmp_path / "c.yaml"
    path.write_text("apiVersion: kmn.io/v1\nkind: Cluster\nmetadata: {name: a}\nspec: {manifests: [shop.yaml]}\n")
    assert ClusterSpec.load(path).manifests == (str(tmp_path / "shop.yaml"),)


def test_the_published_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    validator.validate(cluster(FULL))
    assert not validator.is_valid(cluster({"nods": []}))
    assert not validator.is_valid(cluster({"nodes": []}))


def test_every_field_of_the_schema_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "cluster-file.md").read_text()
    fields = {name for each in SCHEMA["$defs"].values() for name in each.get("properties", {})}
    assert {name for name in fields if f"`{name}`" not in page} == set()


def test_addresses_stay_clear_of_those_asked_for() -> None:
    spec = parsed({"nodes": [{}, {"address": "172.18.0.2"}]})
    assert [node.address for node in spec.nodes] == [IPv4Address("172.18.0.3"), IPv4Address("172.18.0.2")]
