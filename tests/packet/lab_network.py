"""Two nodes, a fabric and an edge, made by hand: namespaces, veth pairs and switches, as the emulator would.

No controller and no objects; those are in ``controller_lab``.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from lab_commands import in_namespace, run
from lab_places import Node, Place, Pod
from lab_switch import Bridge

from kmn.emulator.netns import same_tcp_clock
from kmn.k8s import dataplane
from kmn.k8s.objects import Object

__all__ = ["Network"]

_numbers = itertools.count()


class Network:
    """Everything that packets pass, and taking it down again. ``controller_tcp``: bridges look for a controller."""

    def __init__(self, *, controller_tcp: bool = False) -> None:
        self.prefix = f"kmn.hf{os.getpid()}-{next(_numbers)}"
        self.run = Path(tempfile.mkdtemp(prefix="kmn-hf-"))
        self.namespaces: list[str] = []
        self.bridges: dict[str, Bridge] = {}
        self.places: dict[str, Place] = {}
        self._devices = 0
        self._tcp = controller_tcp
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for bridge in self.bridges.values():
            bridge.stop()
        for netns in self.namespaces:
            subprocess.run(["ip", "netns", "del", netns], capture_output=True, timeout=30)
        shutil.rmtree(self.run, ignore_errors=True)

    def _namespace(self, *parts: str) -> str:
        name = ".".join((self.prefix, *parts))
        run("ip", "netns", "add", name)
        self.namespaces.append(name)
        self.ip(name, "link set lo up")
        in_namespace(name, lambda: Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1"))
        in_namespace(name, lambda: Path("/proc/sys/net/ipv4/icmp_ratelimit").write_text("0"))
        in_namespace(name, same_tcp_clock)
        return name

    def ip(self, netns: str, *commands: str) -> None:
        subprocess.run(["ip", "-n", netns, "-batch", "-"], input="\n".join(commands), text=True, check=True, timeout=30)

    def _pair(self, a: tuple[str, str, str | None], b: tuple[str, str, str | None]) -> None:
        """A veth pair between two (namespace, device, MAC)."""
        self._devices += 1
        run("ip", "-n", a[0], "link", "add", a[1], *(("address", a[2]) if a[2] else ()), "type", "veth", "peer", "name",
            b[1], *(("address", b[2]) if b[2] else ()), "netns", b[0])  # fmt: skip
        self.ip(a[0], f"link set {a[1]} up")
        self.ip(b[0], f"link set {b[1]} up")
        for netns, device, _ in (a, b):
            if device.startswith(("eth", "to-")):
                continue
            # The kernel sees what its namespace's bridge ports receive, too: it must not answer for the bridge.
            self.ip(netns, f"link set {device} arp off")

    def _build(self) -> None:
        self.fabric = self._namespace("fabric")
        in_namespace(self.fabric, lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
        self.ip(self.fabric, "addr add 172.18.0.1/32 dev lo")
        self.n1, self.n2 = self._node(1), self._node(2)
        self._edge()

    def _node(self, number: int) -> Node:
        name = f"n{number}"
        netns = self._namespace("node", name)
        in_namespace(netns, lambda: Path("/proc/sys/net/ipv4/conf/default/accept_local").write_text("1"))
        address, gateway = f"172.18.0.{number + 1}", f"10.244.{number}.1"
        mac, uplink = f"0a:00:00:00:0{number}:01", f"0a:00:00:00:0{number}:02"
        next_hop = f"0a:00:00:00:0{number}:03"
        # The uplink's own MAC is another one than packets are sent to: the node's kernel would take them, too.
        self._pair((netns, "uplink", None), (self.fabric, f"to-{name}", next_hop))
        self._pair((netns, "eth0", mac), (netns, "host", None))
        self.ip(
            netns,
            f"addr add {address}/32 dev eth0",
            f"addr add {gateway}/32 dev eth0",
            f"addr add {dataplane.REJECT_IP}/32 dev eth0",
            "route add 169.254.1.1 dev eth0 scope link",
            f"route add default via 169.254.1.1 dev eth0 src {address}",
            f"route add 10.244.{number}.0/24 via 169.254.1.1 dev eth0 src {gateway}",
            # What the node sends to its own node ports passes the bridge, too.
            f"route add default via 169.254.1.1 dev eth0 src {address} table 30",
            "rule add pref 32000 lookup local",
            *(f"rule add pref 30 iif lo to {address} ipproto {p} dport 30000-32767 lookup 30" for p in ("tcp", "udp")),
            "rule del pref 0",
        )
        self.ip(
            self.fabric,
            f"route add {address}/32 dev to-{name} src 172.18.0.1",
            f"route add 10.244.{number}.0/24 via {address} dev to-{name} onlink",
        )
        bridge = Bridge(name, netns, self.run / name, 0x100 + number)
        self.bridges[name] = bridge
        bridge.start(("uplink", 1), ("host", 2), controller=self._tcp)
        node = Node(name, netns, address, bridge, number, mac, uplink, next_hop)
        self.places[name] = node
        return node

    def _edge(self) -> None:
        netns = self._namespace("edge")
        self._pair((netns, "fabric", "0a:00:00:00:0e:02"), (self.fabric, "to-edge", "0a:00:00:00:0e:03"))
        self.ip(
            self.fabric, "addr add 172.18.255.1/32 dev to-edge", "route add 172.18.255.2 dev to-edge",
            "route add default via 172.18.255.2 dev to-edge",
        )  # fmt: skip
        hosts = []
        for number in (1, 2):
            name, address = f"e{number}", f"203.0.113.{9 + number}"
            host = self._namespace("host", name)
            self._pair((host, "eth0", dataplane.mac_of(address)), (netns, name, None))
            self.ip(host, f"addr add {address}/24 dev eth0", "route add default via 203.0.113.1")
            self.places[name] = Place(name, host, address)
            hosts.append({"name": name, "ip": address, "mac": dataplane.mac_of(address), "ofport": 10 + number})
        bridge = Bridge("edge", netns, self.run / "edge", 0x200)
        self.bridges["edge"] = bridge
        bridge.start(("fabric", 1), ("e1", 11), ("e2", 12), controller=self._tcp)
        self.edge_object: Object = {
            "apiVersion": "kmn.io/v1",
            "kind": "Edge",
            "metadata": {"name": "edge"},
            "spec": {
                "netns": netns,
                "datapathID": f"{bridge.datapath_id:016x}",
                "fabric": {"ofport": 1, "mac": "0a:00:00:00:0e:02", "nextHopMAC": "0a:00:00:00:0e:03"},
                "hosts": hosts,
                "address": "203.0.113.1",
                "internetCIDR": "203.0.113.0/24",
                "natAddresses": ["198.51.100.1"],
                "clusterCIDRs": ["10.244.0.0/16", "172.18.0.0/16"],
            },
        }

    def pod(self, name: str, node: Node, number: int) -> Pod:
        """A pod's namespace and port; its object is not told to anyone yet."""
        address, gateway = f"10.244.{node.number}.{number}", f"10.244.{node.number}.1"
        netns = self._namespace("pod", name)
        self._pair((netns, "eth0", dataplane.mac_of(address)), (node.netns, f"p-{name}", None))
        self.ip(netns, f"addr add {address}/24 dev eth0", f"route add default via {gateway}")
        ofport = dataplane.FIRST_POD_OFPORT + number
        remote = f"unix:{node.bridge.run}/db.sock"
        run("ovs-vsctl", f"--db={remote}", "add-port", "br0", f"p-{name}", "--", "set", "interface", f"p-{name}",
            f"ofport_request={ofport}")  # fmt: skip
        pod = Pod(name, netns, address, node.name, ofport)
        self.places[name] = pod
        return pod

    def outsider(self, name: str, address: str) -> Place:
        """A host behind the fabric that is not of the cluster, with no edge between."""
        netns = self._namespace("host", name)
        self._pair((netns, "eth0", None), (self.fabric, f"to-{name}", None))
        self.ip(netns, f"addr add {address}/32 dev eth0", "route add 172.18.0.1 dev eth0",
                "route add default via 172.18.0.1")  # fmt: skip
        self.ip(self.fabric, f"route add {address}/32 dev to-{name} src 172.18.0.1")
        place = self.places[name] = Place(name, netns, address)
        return place

    def route(self, address: str, node: Node) -> None:
        """The fabric sends an address to a node, as a load balancer or a router would."""
        self.ip(self.fabric, f"route replace {address}/32 via {node.address} dev to-{node.name} onlink")
