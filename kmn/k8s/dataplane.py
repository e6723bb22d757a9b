"""What the emulator and the controller agree on about a node's bridge: annotations, port numbers, addresses.

The emulator writes the annotations on Node and Pod objects *before* the network devices exist; the controller turns
them into flows. Nothing else passes between the two.
"""

from __future__ import annotations

__all__ = [
    "ALB_CONTROLLER",
    "BRIDGE",
    "CONTROLLER_PORT",
    "CT_ZONES",
    "DATAPATH_ID",
    "DATAPLANE_NAME",
    "EGRESS_ADDRESS",
    "FIRST_BALANCER_OFPORT",
    "FIRST_POD_OFPORT",
    "GATEWAY",
    "GATEWAY_CONTROLLERS",
    "GATEWAY_MAC",
    "HAIRPIN_IP",
    "HAIRPIN_IPV6",
    "HOST_OFPORT",
    "INGRESS_CONTROLLERS",
    "IPVS_SCHEDULERS",
    "LAST_BALANCER_OFPORT",
    "MAC",
    "NETNS",
    "OBSERVED_RESOURCES",
    "OFPORT",
    "OWN_IPV6",
    "POLICY_LOG_BYTES",
    "POLICY_LOG_CONNECTION",
    "PROGRAM",
    "REJECT_IP",
    "REJECT_IPV6",
    "REJECT_PORT",
    "TRAEFIK_CONTROLLER",
    "UPLINK_MAC",
    "UPLINK_NEXT_HOP_MAC",
    "UPLINK_OFPORT",
    "WEIGHT",
    "mac_of",
]

# Annotations of Pods and Nodes. A node's MAC and OFPORT are those of its own interface (eth0) on the bridge.
NETNS = "kmn.io/netns"  # name under /run/netns: `ip netns exec NAME ...`
MAC = "kmn.io/mac"
OFPORT = "kmn.io/ofport"  # OpenFlow port number on the node's bridge, decimal
# Annotation of Pods only: one of kmn's own programs listens in the pod: "dns", "ingress", or "none" for the user's.
PROGRAM = "kmn.io/program"
# Annotation of Pods only: the Gateway whose listeners are to be had there, by the program "ingress".
GATEWAY = "kmn.io/gateway"
# Annotation of Pods only: how much of a Service they get with the schedulers wrr and wlc, a whole number from 1 to 256.
WEIGHT = "kmn.io/weight"
# Annotation of Pods and Namespaces: the public address under which connections leave the edge.
EGRESS_ADDRESS = "kmn.io/egress-address"
# Annotations of Nodes only.
DATAPATH_ID = "kmn.io/datapath-id"  # 16 hexadecimal digits
# Source MAC of what leaves for the fabric, and where the fabric sends. Not the MAC of the uplink's device itself: the
# node's kernel would take the packets, too, and reset connections that it does not know before they are translated.
UPLINK_MAC = "kmn.io/uplink-mac"
UPLINK_NEXT_HOP_MAC = "kmn.io/uplink-next-hop-mac"  # the fabric router's interface towards this node

# What policies decided is told to OpenFlow connections that give themselves this number, with the head of the packet.
POLICY_LOG_CONNECTION = 4242
POLICY_LOG_BYTES = 128

BRIDGE = "br0"  # every node has one, in the node's own Open vSwitch
CONTROLLER_PORT = 6653  # the controller listens on 127.0.0.1 in each node's namespace

# Schedulers of IPVS that bridges emulate, kube-proxy's default first: values of spec.kubeProxy.ipvs.scheduler.
IPVS_SCHEDULERS = ("rr", "wrr", "lc", "wlc", "sh")

# Ingress controllers as their users know them: the name of their class, and its spec.controller.
ALB_CONTROLLER = "ingress.k8s.aws/alb"
TRAEFIK_CONTROLLER = "traefik.io/ingress-controller"
INGRESS_CONTROLLERS = {"nginx": "k8s.io/ingress-nginx", "alb": ALB_CONTROLLER, "traefik": TRAEFIK_CONTROLLER}

# Controllers of Gateways likewise: the GatewayClass that their guides use, and its spec.controllerName.
GATEWAY_CONTROLLERS = {
    "kmn": "kmn.io/gateway-controller",
    "cilium": "io.cilium/gateway-controller",
    "contour": "projectcontour.io/gateway-controller",
    "eg": "gateway.envoyproxy.io/gatewayclass-controller",
    "istio": "istio.io/gateway-controller",
    "kgateway": "kgateway.dev/kgateway",
    "kong": "konghq.com/kic-gateway-controller",
    "nginx": "gateway.nginx.org/nginx-gateway-controller",
    "traefik": "traefik.io/gateway-controller",
}

# Connection tracking zones of a bridge: every connection and its DNAT, and SNAT. A connection that needs both
# translations is in both, and its answers pass the second first.
CT_ZONES = (1, 2)

# OpenFlow ports of a node's bridge. Pods follow from FIRST_POD_OFPORT on.
UPLINK_OFPORT = 1
HOST_OFPORT = 2
FIRST_POD_OFPORT = 10
# Of the edge's: outside hosts have those of pods, application load balancers these.
FIRST_BALANCER_OFPORT, LAST_BALANCER_OFPORT = 10_000, 60_000

# Every pod sees its gateway at this address, on every node: frames are routed, never switched.
GATEWAY_MAC = "0a:58:a9:fe:01:01"
# A connection that comes back to its own client gets this source, so that the reply passes the bridge again.
HAIRPIN_IP = "169.254.169.252"
# An address and closed port of the node itself: its kernel refuses what a Service without endpoints receives.
REJECT_IP = "169.254.169.253"
REJECT_PORT = 1
# The same two for IPv6, out of a network of kmn's own that is in no packet on a wire. (Link-local addresses would not
# do: they say nothing without a device.)
OWN_IPV6 = "fd6b:6d6e::/64"
HAIRPIN_IPV6 = "fd6b:6d6e::fc"
REJECT_IPV6 = "fd6b:6d6e::fd"

# The one DataPlane object, written by the controller. Its status:
#   observed: {pods: "<resourceVersion>", ...}     in force on every connected bridge, for OBSERVED_RESOURCES
#   nodes: [{name, listening, connected, flows, groups}], and the edge's bridge under the name of its Edge
#   problems: [text], objects that the controller ignores until they are corrected; left out when there are none
#   drops: [{kind, name, reason, message}], objects for want of which packets are lost, likewise
DATAPLANE_NAME = "default"
OBSERVED_RESOURCES = (
    "nodes",
    "pods",
    "services",
    "endpointslices",
    "edges",
    "applicationloadbalancers",
    "namespaces",
    "networkpolicies",
    "adminnetworkpolicies",
    "baselineadminnetworkpolicies",
    "clusternetworkpolicies",
)


def mac_of(ip: str) -> str:
    """The MAC address of an IPv4 address, as Kubernetes' bridge plugin derives it: ``0a:58`` and the four bytes."""
    return "0a:58:" + ":".join(f"{int(byte):02x}" for byte in ip.split("."))
