"""The edge: a bridge between the fabric and the hosts of an emulated internet, there when the cluster has such hosts.
Application load balancers, which come and go, have ports on it as hosts do.

The controller programs it from the ``Edge`` object that :func:`edge_object` describes. The edge has no address of its
own in the kernel: flows answer for it.
"""

from __future__ import annotations

from ipaddress import ip_interface
from pathlib import Path

from kmn.cluster_spec import ClusterSpec, OutsideHost
from kmn.emulator import ethtool, netlink, shaping
from kmn.emulator.fabric import DEFAULT_ROUTES, Fabric, Uplink, offload
from kmn.emulator.model import EdgePort
from kmn.emulator.netlink import Address, Network, NextHop, Request, Veth
from kmn.emulator.netns import delete, entered
from kmn.emulator.ovs import BridgePlan, Port, Switch
from kmn.emulator.ovsdb import OvsdbError
from kmn.emulator.space import Space
from kmn.k8s.dataplane import FIRST_POD_OFPORT, GATEWAY_MAC, UPLINK_OFPORT, mac_of
from kmn.k8s.objects import Object
from kmn.k8s.resources import EDGES
from kmn.naming import Paths, device, netns

__all__ = ["EDGE_NAME", "Edge", "datapath_id", "edge_object", "host_netns"]

EDGE_NAME = "default"
_UPLINK = "uplink"
_ETH0 = 100  # device index, as in pods
_NO_KERNEL = {"net/ipv4/ip_forward": "0"}


def datapath_id(mac: str) -> str:
    """A bridge's identity towards the controller: sixteen hexadecimal digits."""
    return mac.replace(":", "").rjust(16, "0")


def host_netns(spec: ClusterSpec, host: OutsideHost) -> str:
    """Name of an outside host's namespace."""
    return netns(spec.name, "host", host.name)


def _host_port(spec: ClusterSpec, number: int, host: OutsideHost) -> EdgePort:
    networks: dict[int, Network] = {4: spec.internet_cidr}
    if spec.ipv6 is not None:
        networks[6] = spec.ipv6.internet_cidr
    return EdgePort(
        kind="host",
        name=host.name,
        netns=host_netns(spec, host),
        addresses=tuple(ip_interface(f"{each}/{networks[each.version].prefixlen}") for each in host.addresses),
        mac=mac_of(str(host.address)),
        ofport=FIRST_POD_OFPORT + number,
        link=host.link,
    )


def _uplink(spec: ClusterSpec) -> Uplink:
    return Uplink.of(spec.edge_address, "edge")


def edge_object(spec: ClusterSpec) -> Object:
    """The ``Edge`` that the controller reads. What IPv4 has by itself, dual-stack has again under ``spec.ipv6``."""
    uplink = _uplink(spec)
    ipv6 = spec.ipv6 and {
        "address": str(spec.ipv6.edge_address),
        "internetCIDR": str(spec.ipv6.internet_cidr),
        "natAddresses": [str(address) for address in spec.nat.ipv6_addresses],
        "loadBalancerCIDR": str(spec.ipv6.load_balancer_cidr),
        "nodeCIDR": str(spec.ipv6.node_cidr),
        "clusterCIDRs": [str(spec.ipv6.pod_cidr), str(spec.ipv6.node_cidr)],
    }
    return {
        "apiVersion": EDGES.api_version,
        "kind": EDGES.kind,
        "metadata": {"name": EDGE_NAME},
        "spec": {
            "netns": netns(spec.name, "edge"),
            "datapathID": datapath_id(mac_of(str(spec.edge_address))),
            "fabric": {"ofport": UPLINK_OFPORT, "mac": uplink.port_mac, "nextHopMAC": uplink.router_mac},
            "hosts": [
                {
                    "name": host.name,
                    "ip": str(host.address),
                    "ips": [str(address) for address in host.addresses],
                    "mac": mac_of(str(host.address)),
                    "ofport": FIRST_POD_OFPORT + number,
                    "netns": host_netns(spec, host),
                    "dns": host.dns,
                }
                for number, host in enumerate(spec.outside_hosts)
            ],
            "address": str(spec.edge_address),
            "internetCIDR": str(spec.internet_cidr),
            "natAddresses": [str(address) for address in spec.nat.addresses],
            "natPorts": f"{spec.nat.ports[0]}-{spec.nat.ports[1]}",
            "natOutgoing": spec.nat.outgoing,
            "loadBalancerCIDR": str(spec.load_balancer_cidr),
            "nodeCIDR": str(spec.node_cidr),
            "clusterCIDRs": [str(spec.pod_cidr), str(spec.node_cidr)],
            **({"ipv6": ipv6} if ipv6 else {}),
        },
    }


class Edge:
    """The edge's namespace, switch and outside hosts."""

    def __init__(self, spec: ClusterSpec, paths: Paths, template: Path) -> None:
        self._spec = spec
        name = netns(spec.name, "edge")
        self.space = Space.create(name, _NO_KERNEL)
        log = paths.log / f"{EDGE_NAME}-ovs.log"
        self.switch = Switch(spec.name, EDGE_NAME, name, paths.ovs(EDGE_NAME), log, template)

    def build(self, fabric: Fabric, datapath_type: str) -> BridgePlan:
        """Make the devices; the switch is left to be started."""
        spec = self._spec
        ways_out = [DEFAULT_ROUTES[version] for version in ((4, 6) if spec.ipv6 else (4,))]
        fabric.attach(EDGE_NAME + "-edge", spec.edge_router, self.space, Veth(_UPLINK), _uplink(spec), ways_out)
        ports = [Port(_UPLINK, UPLINK_OFPORT)]
        ports += [self._make(_host_port(spec, number, host)) for number, host in enumerate(spec.outside_hosts)]
        mac = mac_of(str(spec.edge_address))
        return BridgePlan(self.switch, self.space.name, datapath_type, datapath_id(mac), mac, tuple(ports))

    def plug(self, wanted: EdgePort) -> None:
        """Make what is not there from the start. What an earlier attempt left goes. Raises OvsdbError, OSError."""
        self.unplug(wanted)
        port = self._make(wanted)
        self.switch.send_ports([port])
        self.switch.receive([port])
        self.switch.send_wait()
        if problems := self.switch.receive_wait():
            raise OvsdbError("; ".join(problems.values()))

    def unplug(self, gone: EdgePort) -> None:
        """Undo :meth:`plug`. What is gone already is no error."""
        port = self._device(gone)
        try:
            self.switch.send_ports(remove=[port])
            self.switch.receive()
        except OvsdbError:
            pass  # the switch is down: it forgets ports whose devices are gone when it is back
        self.space.netlink.apply([netlink.link_delete(port)])
        delete(gone.netns)

    def _make(self, wanted: EdgePort) -> Port:
        """A namespace with a device; the port at the edge. It reaches even its own network through the edge."""
        spec = self._spec
        port = self._device(wanted)
        gateways: dict[int, Address] = {4: spec.edge_address}
        if spec.ipv6 is not None:
            gateways[6] = spec.ipv6.edge_address
        space = Space.create(wanted.netns, _NO_KERNEL, ipv6=any(each.version == 6 for each in wanted.addresses))
        try:
            eth0 = Veth("eth0", wanted.mac, _ETH0)
            peer = Veth(port, netns=self.space.file, alias=f"{wanted.kind} {wanted.name}")
            space.netlink.apply(
                [
                    netlink.veth_add(eth0, peer),
                    *(
                        request
                        for each in wanted.addresses
                        for request in _port_requests(each.ip, each.network, gateways[each.version])
                    ),
                    *shaping.egress(_ETH0, wanted.link),
                    *shaping.ingress(_ETH0, wanted.link, "ifb", _ETH0 + 1),
                ]
            )
            if not offload(spec):
                with entered(space.file):
                    ethtool.segmentation_offload_off("eth0")
            self.space.netlink.apply([netlink.link_up(port)])
        finally:
            space.release()
        return Port(port, wanted.ofport, {f"kmn-{wanted.kind}": wanted.name})

    def _device(self, port: EdgePort) -> str:
        return device(self._spec.name, port.kind, port.name)


def _port_requests(address: Address, network: Network, edge: Address) -> list[Request]:
    """Address and routes of one family of something at the edge."""
    return [
        netlink.address_add(_ETH0, address, network.prefixlen, on_link=False),
        netlink.neighbour_add(_ETH0, edge, GATEWAY_MAC),
        netlink.route_add(DEFAULT_ROUTES[network.version], [NextHop(_ETH0, edge)]),
    ]
