"""Two nodes and an edge, made by hand: namespaces, veth pairs and an Open vSwitch each, as the emulator would.

The controller's core is run in the test's process, connected to each bridge's management socket: no os-ken, no API.
Sockets of pods and hosts are made in their namespaces and used from here.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import queue
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controller.openflow import wire
from controller.report import Report
from controller.sync import Synchronizer
from kmn.emulator.ovs import CT_TIMEOUTS
from kmn.k8s import dataplane
from kmn.k8s.objects import Object

RESOURCES = ("nodes", "pods", "services", "endpointslices", "edges", "clusters", "namespaces")
_numbers = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)


def run(*command: str, env: dict[str, str] | None = None) -> str:
    """Output of a command; its errors are in the exception."""
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(env or {})}, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return done.stdout


def wait_for(what: Callable[[], Any], message: str, timeout: float = 20.0) -> Any:
    """The first true result of ``what``."""
    end = time.monotonic() + timeout
    while True:
        result = what()
        if result:
            return result
        assert time.monotonic() < end, message
        time.sleep(0.005)


def in_namespace(name: str, make: Callable[[], Any]) -> Any:
    """Result of ``make``, called in a network namespace (in a thread, which ends there)."""
    result: list[Any] = []

    def enter() -> None:
        with open(f"/run/netns/{name}") as namespace:
            if _libc.setns(namespace.fileno(), 0x40000000):
                result.append(OSError(ctypes.get_errno(), f"setns {name}"))
                return
        try:
            result.append(make())
        except OSError as error:
            result.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if isinstance(result[0], OSError):
        raise result[0]
    return result[0]


class UnixChannel:
    """A :class:`controller.link.Channel` on a bridge's management socket."""

    def __init__(self, bridge: str, path: Path, synchronizer: Synchronizer) -> None:
        self.bridge = bridge
        self.sent: list[bytes] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._outgoing: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        hello, features = self._read(), struct.pack("!BBHI", 6, 5, 8, 2)
        assert hello[1] == 0
        self._socket.sendall(struct.pack("!BBHIHHI", 6, 0, 16, 1, 1, 8, 1 << 6) + features)
        self.datapath_id: int = struct.unpack_from("!8xQ", self._read())[0]
        self._synchronizer = synchronizer
        synchronizer.up(self)
        self._transmitter = threading.Thread(target=self._transmit)
        self.thread = threading.Thread(target=self._receive)
        self._transmitter.start()
        self.thread.start()

    def send(self, messages: bytes) -> None:
        self.sent.append(messages)
        self._outgoing.put(messages)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._outgoing.put(b"")

    def _transmit(self) -> None:
        with contextlib.suppress(OSError):
            while messages := self._outgoing.get():
                self._socket.sendall(messages)

    def _read(self) -> bytes:
        message = self._exactly(8)
        return message + self._exactly(struct.unpack("!2xH4x", message)[0] - 8)

    def _exactly(self, length: int) -> bytes:
        chunks = b""
        while len(chunks) < length:
            chunk = self._socket.recv(length - len(chunks))
            if not chunk:
                raise EOFError
            chunks += chunk
        return chunks

    def _receive(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                message = self._read()
                if message[1] == 2:  # echo request
                    self._outgoing.put(message[:1] + b"\x03" + message[2:])
                elif message[1] in (wire.MULTIPART_REPLY, wire.BUNDLE_CONTROL, wire.ERROR):
                    self._synchronizer.receive(self, message)
        self._synchronizer.down(self)
        self._outgoing.put(b"")
        self._transmitter.join()
        self._socket.close()


class Controller:
    """The synchroniser in a thread, with objects given directly."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.synchronizer = Synchronizer(RESOURCES, self.reports.append)
        self.channels: dict[str, UnixChannel] = {}
        self._thread = threading.Thread(target=self.synchronizer.run)
        self._thread.start()

    def connect(self, bridge: str, path: Path) -> UnixChannel:
        channel = self.channels[bridge] = UnixChannel(bridge, path, self.synchronizer)
        return channel

    def in_force(self, resource: str, version: int, connected: int) -> bool:
        """Is a version in force on so many bridges?"""
        if not self.reports:
            return False
        last = self.reports[-1]
        return (
            int(last.observed.get(resource, -1)) >= version and sum(node.connected for node in last.nodes) >= connected
        )

    def stop(self) -> None:
        for channel in self.channels.values():
            channel.close()
            channel.thread.join()
        self.synchronizer.stop()
        self._thread.join()


@dataclass
class Bridge:
    """A namespace with an Open vSwitch of its own."""

    name: str
    netns: str
    run: Path
    datapath_id: int
    processes: list[int] = field(default_factory=list)

    def start(self, *ports: tuple[str, int], controller: bool = False) -> None:
        self.run.mkdir(parents=True)
        env = {"OVS_RUNDIR": str(self.run), "OVS_LOGDIR": str(self.run)}
        database = self.run / "conf.db"
        run("ovsdb-tool", "create", str(database), "/usr/share/openvswitch/vswitch.ovsschema")
        common = ("--detach", "--no-chdir", "--log-file", "-vconsole:off")
        inside = ("ip", "netns", "exec", self.netns)
        remote = f"unix:{self.run}/db.sock"
        run(*inside, "ovsdb-server", str(database), f"--remote=p{remote}", "--pidfile", *common, env=env)
        self.processes.append(int((self.run / "ovsdb-server.pid").read_text()))
        options = ("userspace-tso-enable=true", "stats-update-interval=3600000")
        settings = [f"other_config:{option}" for option in options]
        run("ovs-vsctl", f"--db={remote}", "--no-wait", "init", "--", "set", "Open_vSwitch", ".", *settings)
        run(*inside, "ovs-vswitchd", remote, "--pidfile", *common, env=env)
        self.processes.append(int((self.run / "ovs-vswitchd.pid").read_text()))
        words = ["--", "add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev", "fail_mode=secure"]
        words += ["protocols=OpenFlow15", f"other-config:datapath-id={self.datapath_id:016x}"]
        for device, number in ports:
            words += ["--", "add-port", "br0", device, "--", "set", "interface", device, f"ofport_request={number}"]
        if controller:
            words += ["--", "set-controller", "br0", "tcp:127.0.0.1:6653"]
            words += ["--", "set", "controller", "br0", "max_backoff=1000", "inactivity_probe=0"]
        words += ["--", "--id=@datapath", "create", "Datapath", "datapath_version=any"]
        words += ["--", "set", "Open_vSwitch", ".", "datapaths:netdev=@datapath"]
        for zone in dataplane.CT_ZONES:
            words += ["--", "add-zone-tp", "netdev", f"zone={zone}"]
            words += [f"{name}={seconds}" for name, seconds in CT_TIMEOUTS.items()]
        run("ovs-vsctl", f"--db={remote}", *words)

    @property
    def management(self) -> Path:
        return self.run / "br0.mgmt"

    def ofctl(self, command: str, *words: str) -> list[str]:
        lines = run(
            "ovs-ofctl", "-O", "OpenFlow15", command, *words[:0], f"unix:{self.management}", *words
        ).splitlines()
        return [line for line in lines if not line.startswith(("OFPST", "NXST"))]

    def flows(self) -> list[str]:
        text = run("ovs-ofctl", "-O", "OpenFlow15", "dump-flows", "--no-stats", f"unix:{self.management}")
        return sorted(text.splitlines())

    def appctl(self, *words: str) -> str:
        pid = (self.run / "ovs-vswitchd.pid").read_text().strip()
        return run("ovs-appctl", "-t", f"{self.run}/ovs-vswitchd.{pid}.ctl", *words)

    def megaflows(self) -> list[str]:
        return [line for line in self.appctl("dpctl/dump-flows").splitlines() if "packets:" in line]

    def stop(self) -> None:
        for pid in reversed(self.processes):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@dataclass
class Place:
    """Something with an address: a pod, a node, a host outside."""

    name: str
    netns: str
    address: str

    def socket(self, kind: int = socket.SOCK_STREAM) -> socket.socket:
        def make() -> socket.socket:
            made = socket.socket(socket.AF_INET, kind)
            made.settimeout(5)
            return made

        return in_namespace(self.netns, make)

    def ping(self, address: str) -> bool:
        done = subprocess.run(
            ["ip", "netns", "exec", self.netns, "ping", "-c1", "-W2", address], capture_output=True, timeout=10
        )
        return done.returncode == 0

    def serve(self, port: int, stop: threading.Event) -> list[threading.Thread]:
        """Answer on TCP and UDP with ``name client-address``, until ``stop``."""
        tcp, udp = self.socket(), self.socket(socket.SOCK_DGRAM)
        for listener in (tcp, udp):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.settimeout(0.2)
            listener.bind(("0.0.0.0", port))
        tcp.listen(256)

        def loop_tcp() -> None:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError, ConnectionError):
                    connection, (client, _) = tcp.accept()
                    with connection:
                        connection.sendall(f"{self.name} {client}\n".encode())
            tcp.close()

        def loop_udp() -> None:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    _, client = udp.recvfrom(2048)
                    udp.sendto(f"{self.name} {client[0]}\n".encode(), client)
            udp.close()

        threads = [threading.Thread(target=loop) for loop in (loop_tcp, loop_udp)]
        for thread in threads:
            thread.start()
        return threads

    def tcp(self, address: str, port: int, source: int = 0) -> tuple[str, str]:
        """Who answered, and which client address it saw."""
        with self.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            connection.bind(("0.0.0.0", source))
            connection.connect((address, port))
            answer = connection.makefile().readline()
        name, client = answer.split()
        return name, client

    def udp(self, address: str, port: int, source: int = 0) -> tuple[str, str]:
        with self.socket(socket.SOCK_DGRAM) as connection:
            connection.bind(("0.0.0.0", source))
            connection.connect((address, port))
            connection.send(b"?")
            name, client = connection.recv(2048).decode().split()
        return name, client


@dataclass
class Node(Place):
    """A node, and what its objects say."""

    bridge: Bridge = None  # type: ignore[assignment]
    number: int = 0
    mac: str = ""
    uplink_mac: str = ""
    next_hop_mac: str = ""

    @property
    def object(self) -> Object:
        notes = {
            dataplane.NETNS: self.netns,
            dataplane.MAC: self.mac,
            dataplane.OFPORT: str(dataplane.HOST_OFPORT),
            dataplane.DATAPATH_ID: f"{self.bridge.datapath_id:016x}",
            dataplane.UPLINK_MAC: self.uplink_mac,
            dataplane.UPLINK_NEXT_HOP_MAC: self.next_hop_mac,
        }
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "annotations": notes},
            "spec": {"podCIDR": f"10.244.{self.number}.0/24"},
            "status": {"addresses": [{"type": "InternalIP", "address": self.address}]},
        }


@dataclass
class Pod(Place):
    node: str = ""
    ofport: int = 0

    @property
    def object(self) -> Object:
        notes = {
            dataplane.NETNS: self.netns,
            dataplane.MAC: dataplane.mac_of(self.address),
            dataplane.OFPORT: str(self.ofport),
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": "default", "name": self.name, "annotations": notes},
            "spec": {"nodeName": self.node},
            "status": {"phase": "Running", "podIP": self.address},
        }


def service(name: str, address: str, *ports: tuple[str, str, int]) -> Object:
    """``ports``: name, protocol, number."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "default", "name": name},
        "spec": {
            "clusterIP": address,
            "ports": [{"name": n, "protocol": protocol, "port": number} for n, protocol, number in ports],
        },
    }


def with_spec(obj: Object, **spec: Any) -> Object:
    """The object with more fields of its spec."""
    return {**obj, "spec": {**obj["spec"], **spec}}


def endpoint_slice(name: str, addresses: list[str], *ports: tuple[str, str, int], **conditions: bool) -> Object:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default",
            "name": f"{name}-1",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [a], "conditions": conditions or {"ready": True}} for a in addresses],
        "ports": [{"name": n, "protocol": protocol, "port": number} for n, protocol, number in ports],
    }


class Lab:
    """Everything, and taking it down again."""

    def __init__(self, *, controller_tcp: bool = False) -> None:
        self.prefix = f"kmn.hf{os.getpid()}-{next(_numbers)}"
        self.run = Path(tempfile.mkdtemp(prefix="kmn-hf-"))
        self.namespaces: list[str] = []
        self.bridges: dict[str, Bridge] = {}
        self.places: dict[str, Place] = {}
        self._devices = 0
        self._versions = dict.fromkeys(RESOURCES, 0)
        self._objects: dict[tuple[str, str], Object] = {}
        self.stop_servers = threading.Event()
        self.servers: list[threading.Thread] = []
        self._tcp = controller_tcp
        self.controller: Controller | None = None
        self.outside: list[Place] = []
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    # Namespaces and devices.

    def _namespace(self, *parts: str) -> str:
        name = ".".join((self.prefix, *parts))
        run("ip", "netns", "add", name)
        self.namespaces.append(name)
        self.ip(name, "link set lo up")
        in_namespace(name, lambda: Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1"))
        in_namespace(name, lambda: Path("/proc/sys/net/ipv4/icmp_ratelimit").write_text("0"))
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

    # Objects.

    def put(self, resource: str, obj: Object, controller: Controller) -> int:
        """Tell the controller of a new or changed object; its resourceVersion."""
        self._versions[resource] += 1
        obj["metadata"]["resourceVersion"] = str(self._versions[resource])
        self._objects[resource, obj["metadata"]["name"]] = obj
        controller.synchronizer.event(resource, "MODIFIED", obj)
        return self._versions[resource]

    def delete(self, resource: str, name: str, controller: Controller) -> int:
        self._versions[resource] += 1
        obj = self._objects.pop((resource, name))
        obj["metadata"]["resourceVersion"] = str(self._versions[resource])
        controller.synchronizer.event(resource, "DELETED", obj)
        return self._versions[resource]

    def controlled(self, *, connect: bool = True) -> Controller:
        """A controller that knows all objects and is connected to all bridges, when everything is in force."""
        controller = Controller()
        self.controller = controller
        known: dict[str, list[Object]] = {resource: [] for resource in RESOURCES}
        for (resource, _), obj in self._objects.items():
            known[resource].append(obj)
        for resource, items in known.items():
            controller.synchronizer.listed(resource, items, str(self._versions[resource]))
        if connect:
            for name, bridge in self.bridges.items():
                controller.connect(name, bridge.management)
            wait_for(
                lambda: controller.in_force("nodes", self._versions["nodes"], len(self.bridges)),
                "the bridges are not in step",
            )
        return controller

    def wait(self, resource: str, version: int) -> None:
        controller = self.controller
        assert controller is not None
        wait_for(lambda: controller.in_force(resource, version, len(controller.channels)), f"{resource} not in force")

    def apply(self, resource: str, obj: Object) -> None:
        """Tell of an object, and wait until it is in force."""
        assert self.controller is not None
        self.wait(resource, self.put(resource, obj, self.controller))

    def remember(self, resource: str, obj: Object) -> None:
        """An object for the next controller's list."""
        self._versions[resource] += 1
        obj["metadata"]["resourceVersion"] = str(self._versions[resource])
        self._objects[resource, obj["metadata"]["name"]] = obj

    def close(self) -> None:
        self.stop_servers.set()
        for server in self.servers:
            server.join()
        if self.controller is not None:
            self.controller.stop()
        for bridge in self.bridges.values():
            bridge.stop()
        for netns in self.namespaces:
            subprocess.run(["ip", "netns", "del", netns], capture_output=True, timeout=30)
        shutil.rmtree(self.run, ignore_errors=True)


@contextlib.contextmanager
def lab(**options: bool) -> Iterator[Lab]:
    made = Lab(**options)
    try:
        yield made
    finally:
        made.close()
