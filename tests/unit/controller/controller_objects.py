"""API objects of the controller's tests, as small as they may be."""

from __future__ import annotations

from kmn.k8s.dataplane import mac_of
from kmn.k8s.objects import Object


def node(name: str = "n1", number: int = 1) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {
                "kmn.io/netns": f"kmn.t.node.{name}",
                "kmn.io/mac": f"0a:00:00:00:0{number}:01",
                "kmn.io/ofport": "2",
                "kmn.io/datapath-id": f"{number:016x}",
                "kmn.io/uplink-mac": f"0a:00:00:00:0{number}:02",
                "kmn.io/uplink-next-hop-mac": f"0a:00:00:00:0{number}:03",
            },
        },
        "spec": {"podCIDR": f"10.244.{number}.0/24"},
        "status": {"addresses": [{"type": "InternalIP", "address": f"172.18.0.{number + 1}"}]},
    }


def pod(name: str, address: str, ofport: int, node: str = "n1") -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": "default",
            "name": name,
            "annotations": {"kmn.io/netns": "x", "kmn.io/mac": mac_of(address), "kmn.io/ofport": str(ofport)},
        },
        "spec": {"nodeName": node},
        "status": {"podIP": address, "phase": "Pending"},
    }


def service(name: str, address: str, *ports: tuple[str, str, int]) -> Object:
    """``ports``: name, protocol, number."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "default", "name": name},
        "spec": {"clusterIP": address, "ports": [{"name": n, "protocol": p, "port": i} for n, p, i in ports]},
    }


def endpoints(name: str, addresses: list[str], *ports: tuple[str, str, int], suffix: str = "1", **is_: bool) -> Object:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default",
            "name": f"{name}-{suffix}",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [a], "conditions": is_ or {"ready": True}} for a in addresses],
        "ports": [{"name": n, "protocol": p, "port": i} for n, p, i in ports],
    }


def edge() -> Object:
    host = {"name": "e1", "ip": "203.0.113.10", "mac": "0a:58:cb:00:71:0a", "ofport": 11, "netns": "kmn.t.host.e1"}
    return {
        "apiVersion": "kmn.io/v1",
        "kind": "Edge",
        "metadata": {"name": "edge"},
        "spec": {
            "netns": "kmn.t.edge",
            "datapathID": "00000000000000ee",
            "fabric": {"ofport": 1, "mac": "0a:00:00:00:0e:02", "nextHopMAC": "0a:00:00:00:0e:03"},
            "hosts": [host],
            "address": "203.0.113.1",
            "internetCIDR": "203.0.113.0/24",
            "natAddresses": ["198.51.100.1"],
            "clusterCIDRs": ["10.244.0.0/16"],
        },
    }
