"""Cells of the tables, kind by kind, worded as ``kubectl`` users know them.

Of two kinds with one name, one stands in the table under the name of its resource.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from kmn.k8s.objects import Object, condition, labels, parse_time
from kmn.k8s.selectors import selector_of_map, selector_of_object

__all__ = ["BY_KIND", "DEFAULT", "Column", "age_of"]

_NONE = "<none>"
_UNKNOWN = "<unknown>"
_ROLE = "node-role.kubernetes.io/"
_SHOWN = 3  # endpoints and ports in one cell before "+ n more..."

Cell = Callable[[Object], Any]


class Column(NamedTuple):
    """One column. ``wide``: for ``-o wide`` only."""

    title: str
    cell: Cell
    wide: bool = False
    type: str = "string"


def _path(*names: str, default: Any = "") -> Cell:
    def read(obj: Object) -> Any:
        value: Any = obj
        for name in names:
            value = (value or {}).get(name)
        return default if value is None else value

    return read


def age_of(timestamp: str | None) -> str:
    """Time since, in kubectl's words: ``5s``, ``3m20s``, ``2d4h``."""
    if not timestamp:
        return _UNKNOWN
    return _duration((dt.datetime.now(dt.UTC) - parse_time(timestamp)).total_seconds())


def _duration(seconds: float) -> str:
    whole = int(seconds)
    if whole < 0:
        return "0s" if whole >= -1 else "<invalid>"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if whole < 120:
        return f"{whole}s"
    if minutes < 10:
        return f"{minutes}m{whole % 60}s" if whole % 60 else f"{minutes}m"
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    if days < 730:
        return f"{days}d"
    return f"{days // 365}y{days % 365}d" if days % 365 and days < 365 * 8 else f"{days // 365}y"


def _nat_addresses(edge: Object) -> str:
    """Of both families."""
    spec = edge.get("spec") or {}
    return _joined([*(spec.get("natAddresses") or ()), *((spec.get("ipv6") or {}).get("natAddresses") or ())])


def _joined(values: Iterable[Any], separator: str = ",") -> str:
    return separator.join(str(value) for value in values)


def _some(values: list[str]) -> str:
    """A few of many, as kubectl shortens endpoints."""
    shown = _joined(values[:_SHOWN])
    return f"{shown} + {len(values) - _SHOWN} more..." if len(values) > _SHOWN else shown


def _name(obj: Object) -> str:
    return obj["metadata"]["name"]  # type: ignore[no-any-return]


def _age(obj: Object) -> str:
    return age_of(obj["metadata"].get("creationTimestamp"))


NAME, AGE = Column("Name", _name), Column("Age", _age)
DEFAULT = (NAME, AGE)


def _count(title: str, *path: str) -> Column:
    return Column(title, _path(*path, default=0), type="integer")


# Pods.


def _pod_status(pod: Object) -> str:
    """The STATUS of a pod: its phase, or the most telling state of its containers (kubectl's printPod)."""
    status = pod.get("status") or {}
    reason = status.get("reason") or status.get("phase") or _UNKNOWN
    initializing = _init_status(pod, status)
    reason = initializing if initializing is not None else _container_reason(status, reason)
    if pod["metadata"].get("deletionTimestamp"):
        return "Unknown" if status.get("reason") == "NodeLost" else "Terminating"
    return str(reason)


def _init_status(pod: Object, status: dict[str, Any]) -> str | None:
    """``Init:1/2`` and the like while init containers are at work, None afterwards."""
    specs = {c["name"]: c for c in pod.get("spec", {}).get("initContainers") or ()}
    for index, container in enumerate(status.get("initContainerStatuses") or ()):
        state = container.get("state") or {}
        ended, waiting = state.get("terminated"), state.get("waiting")
        if ended is not None and ended.get("exitCode") == 0:
            continue
        sidecar = specs.get(container["name"], {}).get("restartPolicy") == "Always"
        if sidecar and container.get("started"):
            continue
        if ended is not None:
            return f"Init:{_ending(ended)}"
        if waiting and waiting.get("reason") not in (None, "", "PodInitializing"):
            return f"Init:{waiting['reason']}"
        return f"Init:{index}/{len(specs)}"
    return None


def _container_reason(status: dict[str, Any], reason: str) -> str:
    running = False
    for container in reversed(status.get("containerStatuses") or []):
        state = container.get("state") or {}
        if (state.get("waiting") or {}).get("reason"):
            reason = state["waiting"]["reason"]
        elif state.get("terminated") is not None:
            reason = _ending(state["terminated"])
        elif container.get("ready") and state.get("running") is not None:
            running = True
    if reason == "Completed" and running:
        ready = condition({"status": status}, "Ready")
        return "Running" if ready and ready["status"] == "True" else "NotReady"
    return reason


def _ending(terminated: dict[str, Any]) -> str:
    if terminated.get("reason"):
        return str(terminated["reason"])
    return f"Signal:{terminated['signal']}" if terminated.get("signal") else f"ExitCode:{terminated.get('exitCode', 0)}"


def _pod_ready(pod: Object) -> str:
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    sidecars = {c["name"] for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"}
    states = [c for c in status.get("initContainerStatuses") or () if c["name"] in sidecars]
    states += status.get("containerStatuses") or []
    ready = sum(1 for c in states if c.get("ready"))
    return f"{ready}/{len(spec.get('containers') or ()) + len(sidecars)}"


def _pod_restarts(pod: Object) -> str:
    states = (pod.get("status") or {}).get("containerStatuses") or []
    restarts = sum(c.get("restartCount", 0) for c in states)
    ends = [((c.get("lastState") or {}).get("terminated") or {}).get("finishedAt") for c in states]
    last = max(filter(None, ends), default=None)
    return f"{restarts} ({age_of(last)} ago)" if restarts and last else str(restarts)


def _pod_ip(pod: Object) -> str:
    status = pod.get("status") or {}
    ips = status.get("podIPs") or ()
    return (ips[0]["ip"] if ips else status.get("podIP")) or _NONE


def _pod_gates(pod: Object) -> str:
    gates = (pod.get("spec") or {}).get("readinessGates") or ()
    if not gates:
        return _NONE
    met = sum(1 for g in gates if (condition(pod, g["conditionType"]) or {}).get("status") == "True")
    return f"{met}/{len(gates)}"


# Nodes.


def _node_status(node: Object) -> str:
    ready = condition(node, "Ready")
    words = ["Unknown" if ready is None else "Ready" if ready["status"] == "True" else "NotReady"]
    if (node.get("spec") or {}).get("unschedulable"):
        words.append("SchedulingDisabled")
    return _joined(words)


def _node_roles(node: Object) -> str:
    roles = {key.removeprefix(_ROLE) for key in labels(node) if key.startswith(_ROLE)}
    if old := labels(node).get("kubernetes.io/role"):
        roles.add(old)
    return _joined(sorted(roles - {""})) or _NONE


def _node_address(kind: str) -> Cell:
    def read(node: Object) -> str:
        addresses = (node.get("status") or {}).get("addresses") or ()
        return next((a["address"] for a in addresses if a["type"] == kind), _NONE)

    return read


def _node_info(name: str, default: str = _UNKNOWN) -> Cell:
    return _path("status", "nodeInfo", name, default=default)


# Services and what is behind them.


def _service_external(service: Object) -> str:
    spec = service.get("spec") or {}
    given = list(spec.get("externalIPs") or ())
    match spec.get("type", "ClusterIP"):
        case "ExternalName":
            return str(spec.get("externalName") or _NONE)
        case "LoadBalancer":
            ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
            found = [i.get("ip") or i.get("hostname") or "" for i in ingress] + given
            return _joined(found) or "<pending>"
    return _joined(given) or _NONE


def _service_ports(service: Object) -> str:
    ports = (service.get("spec") or {}).get("ports") or ()
    texts = []
    for port in ports:
        node = f":{port['nodePort']}" if port.get("nodePort") else ""
        texts.append(f"{port['port']}{node}/{port.get('protocol', 'TCP')}")
    return _joined(texts) or _NONE


def _map_selector(obj: Object) -> str:
    return str(selector_of_map((obj.get("spec") or {}).get("selector"))) or _NONE


def _object_selector(obj: Object) -> str:
    return str(selector_of_object((obj.get("spec") or {}).get("selector"))) or _NONE


def _endpoints(endpoints: Object) -> str:
    found = [
        f"{address['ip']}:{port['port']}"
        for subset in endpoints.get("subsets") or ()
        for port in subset.get("ports") or ()
        for address in subset.get("addresses") or ()
    ]
    return _some(found) or _NONE


def _slice_ports(obj: Object) -> str:
    return _some([str(p.get("port", "*")) for p in obj.get("ports") or ()]) or "<unset>"


def _slice_endpoints(obj: Object) -> str:
    return _some([address for e in obj.get("endpoints") or () for address in e.get("addresses") or ()]) or "<unset>"


def _policy_selector(policy: Object) -> str:
    return str(selector_of_object((policy.get("spec") or {}).get("podSelector"))) or _NONE


def _policy_priority(policy: Object) -> str:
    return str((policy.get("spec") or {}).get("priority", ""))


def _ingress_hosts(ingress: Object) -> str:
    rules = (ingress.get("spec") or {}).get("rules") or ()
    hosts = [rule["host"] for rule in rules if rule.get("host")]
    return _some(hosts) or "*"


def _ingress_address(ingress: Object) -> str:
    entries = ((ingress.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    return _joined(e.get("ip") or e.get("hostname") or "" for e in entries)


def _ingress_ports(ingress: Object) -> str:
    return "80, 443" if (ingress.get("spec") or {}).get("tls") else "80"


# Gateways. Custom resources print lists as JSON, and what is not there as nothing.


def _as_list(*names: str) -> Cell:
    read = _path(*names)
    return lambda obj: json.dumps(found, separators=(",", ":")) if (found := read(obj)) else ""


_HOSTNAMES = Column("Hostnames", _as_list("spec", "hostnames"))


def _condition_status(kind: str) -> Cell:
    return lambda obj: (condition(obj, kind) or {}).get("status", "")


def _gateway_address(gateway: Object) -> str:
    addresses = (gateway.get("status") or {}).get("addresses") or ()
    return _joined(address["value"] for address in addresses)


# Workloads.


def _template(obj: Object) -> list[dict[str, Any]]:
    template = ((obj.get("spec") or {}).get("template") or {}).get("spec") or {}
    return template.get("containers") or []


_WORKLOAD = (
    Column("Containers", lambda obj: _joined(c["name"] for c in _template(obj)), wide=True),
    Column("Images", lambda obj: _joined(c.get("image", "") for c in _template(obj)), wide=True),
)
_SELECTED = (*_WORKLOAD, Column("Selector", _object_selector, wide=True))


def _ready_of_desired(obj: Object) -> str:
    replicas = (obj.get("spec") or {}).get("replicas")
    return f"{(obj.get('status') or {}).get('readyReplicas') or 0}/{1 if replicas is None else replicas}"


_REPLICAS = (
    NAME,
    _count("Desired", "spec", "replicas"),
    _count("Current", "status", "replicas"),
    _count("Ready", "status", "readyReplicas"),
    AGE,
)


def _node_selector(obj: Object) -> str:
    template = ((obj.get("spec") or {}).get("template") or {}).get("spec") or {}
    return _joined(f"{k}={v}" for k, v in sorted((template.get("nodeSelector") or {}).items())) or _NONE


def _job_status(job: Object) -> str:
    words = (
        ("Complete", "Complete"),
        ("Failed", "Failed"),
        ("Suspended", "Suspended"),
        ("FailureTarget", "FailureTarget"),
    )
    for kind, word in words:
        if (condition(job, kind) or {}).get("status") == "True":
            return word
    return "Terminating" if job["metadata"].get("deletionTimestamp") else "Running"


def _job_completions(job: Object) -> str:
    spec, done = job.get("spec") or {}, (job.get("status") or {}).get("succeeded") or 0
    if spec.get("completions") is not None:
        return f"{done}/{spec['completions']}"
    parallelism = spec.get("parallelism") or 0
    return f"{done}/1 of {parallelism}" if parallelism > 1 else f"{done}/1"


def _job_duration(job: Object) -> str:
    status = job.get("status") or {}
    if not status.get("startTime"):
        return ""
    if not status.get("completionTime"):
        return age_of(status["startTime"])
    return _duration((parse_time(status["completionTime"]) - parse_time(status["startTime"])).total_seconds())


# Events.


def _event_seen(*names: str) -> Cell:
    def read(event: Object) -> str:
        return age_of(next((event[name] for name in names if event.get(name)), event["metadata"]["creationTimestamp"]))

    return read


def _event_object(event: Object) -> str:
    involved = event.get("involvedObject") or {}
    return f"{involved.get('kind', '').lower()}/{involved.get('name', '')}"


# kmn's own.


def _plane_nodes(plane: Object) -> str:
    nodes = (plane.get("status") or {}).get("nodes") or ()
    return f"{sum(1 for n in nodes if n.get('connected'))}/{len(nodes)}"


def _plane_sum(name: str) -> Cell:
    return lambda plane: sum(n.get(name) or 0 for n in (plane.get("status") or {}).get("nodes") or ())


def _length(*path: str) -> Cell:
    read = _path(*path, default=())
    return lambda obj: len(read(obj))


BY_KIND: dict[str, tuple[Column, ...]] = {
    "Pod": (
        NAME,
        Column("Ready", _pod_ready),
        Column("Status", _pod_status),
        Column("Restarts", _pod_restarts),
        AGE,
        Column("IP", _pod_ip, wide=True),
        Column("Node", lambda pod: (pod.get("spec") or {}).get("nodeName") or _NONE, wide=True),
        Column("Nominated Node", _path("status", "nominatedNodeName", default=_NONE), wide=True),
        Column("Readiness Gates", _pod_gates, wide=True),
    ),
    "Node": (
        NAME,
        Column("Status", _node_status),
        Column("Roles", _node_roles),
        AGE,
        Column("Version", _node_info("kubeletVersion", "")),
        Column("Internal-IP", _node_address("InternalIP"), wide=True),
        Column("External-IP", _node_address("ExternalIP"), wide=True),
        Column("OS-Image", _node_info("osImage"), wide=True),
        Column("Kernel-Version", _node_info("kernelVersion"), wide=True),
        Column("Container-Runtime", _node_info("containerRuntimeVersion"), wide=True),
    ),
    "Service": (
        NAME,
        Column("Type", _path("spec", "type", default="ClusterIP")),
        Column("Cluster-IP", lambda service: (service.get("spec") or {}).get("clusterIP") or _NONE),
        Column("External-IP", _service_external),
        Column("Port(s)", _service_ports),
        AGE,
        Column("Selector", _map_selector, wide=True),
    ),
    "Endpoints": (NAME, Column("Endpoints", _endpoints), AGE),
    "EndpointSlice": (
        NAME,
        Column("AddressType", _path("addressType")),
        Column("Ports", _slice_ports),
        Column("Endpoints", _slice_endpoints),
        AGE,
    ),
    "NetworkPolicy": (NAME, Column("Pod-Selector", _policy_selector), AGE),
    "AdminNetworkPolicy": (NAME, Column("Priority", _policy_priority), AGE),
    "ClusterNetworkPolicy": (NAME, Column("Tier", _path("spec", "tier")), Column("Priority", _policy_priority), AGE),
    "Ingress": (
        NAME,
        Column("Class", _path("spec", "ingressClassName", default=_NONE)),
        Column("Hosts", _ingress_hosts),
        Column("Address", _ingress_address),
        Column("Ports", _ingress_ports),
        AGE,
    ),
    "GatewayClass": (
        NAME,
        Column("Controller", _path("spec", "controllerName")),
        Column("Accepted", _condition_status("Accepted")),
        AGE,
        Column("Description", _path("spec", "description"), wide=True),
    ),
    "gateways.gateway.networking.k8s.io": (
        NAME,
        Column("Class", _path("spec", "gatewayClassName")),
        Column("Address", _gateway_address),
        Column("Programmed", _condition_status("Programmed")),
        AGE,
    ),
    "HTTPRoute": (NAME, _HOSTNAMES, AGE),
    "GRPCRoute": (NAME, _HOSTNAMES, AGE),
    "VirtualService": (
        NAME,
        Column("Gateways", _as_list("spec", "gateways")),
        Column("Hosts", _as_list("spec", "hosts")),
        AGE,
    ),
    "DestinationRule": (NAME, Column("Host", _path("spec", "host")), AGE),
    "IngressClass": (NAME, Column("Controller", _path("spec", "controller")), AGE),
    "Deployment": (
        NAME,
        Column("Ready", _ready_of_desired),
        _count("Up-to-date", "status", "updatedReplicas"),
        _count("Available", "status", "availableReplicas"),
        AGE,
        *_SELECTED,
    ),
    "ReplicaSet": (*_REPLICAS, *_SELECTED),
    "ReplicationController": (*_REPLICAS, *_WORKLOAD, Column("Selector", _map_selector, wide=True)),
    "StatefulSet": (NAME, Column("Ready", _ready_of_desired), AGE, *_WORKLOAD),
    "DaemonSet": (
        NAME,
        _count("Desired", "status", "desiredNumberScheduled"),
        _count("Current", "status", "currentNumberScheduled"),
        _count("Ready", "status", "numberReady"),
        _count("Up-to-date", "status", "updatedNumberScheduled"),
        _count("Available", "status", "numberAvailable"),
        Column("Node Selector", _node_selector),
        AGE,
        *_SELECTED,
    ),
    "Job": (
        NAME,
        Column("Status", _job_status),
        Column("Completions", _job_completions),
        Column("Duration", _job_duration),
        AGE,
        *_SELECTED,
    ),
    "CronJob": (
        NAME,
        Column("Schedule", _path("spec", "schedule")),
        Column("Timezone", _path("spec", "timeZone", default=_NONE)),
        Column("Suspend", lambda job: str(bool((job.get("spec") or {}).get("suspend")))),
        Column("Active", _length("status", "active"), type="integer"),
        AGE,
    ),
    "Namespace": (NAME, Column("Status", _path("status", "phase")), AGE),
    "ConfigMap": (
        NAME,
        Column("Data", lambda obj: len(obj.get("data") or ()) + len(obj.get("binaryData") or ()), type="integer"),
        AGE,
    ),
    "Secret": (
        NAME,
        Column("Type", _path("type", default="Opaque")),
        Column("Data", _length("data"), type="integer"),
        AGE,
    ),
    "ServiceAccount": (NAME, Column("Secrets", _length("secrets"), type="integer"), AGE),
    "Event": (
        Column("Last Seen", _event_seen("lastTimestamp", "eventTime", "firstTimestamp")),
        Column("Type", _path("type")),
        Column("Reason", _path("reason")),
        Column("Object", _event_object),
        Column("Subobject", _path("involvedObject", "fieldPath"), wide=True),
        Column("Source", _path("source", "component"), wide=True),
        Column("Message", lambda event: str(event.get("message") or "").strip()),
        Column("First Seen", _event_seen("firstTimestamp", "eventTime"), wide=True),
        Column("Count", _path("count", default=1), wide=True, type="integer"),
        Column("Name", _name, wide=True),
    ),
    "Cluster": (
        NAME,
        Column("Nodes", _length("spec", "nodes"), type="integer"),
        Column("Pod-CIDR", _path("spec", "podCIDR")),
        Column("Service-CIDR", _path("spec", "serviceCIDR")),
        Column("Datapath", _path("spec", "datapath")),
        AGE,
    ),
    "Edge": (
        NAME,
        Column("Address", _path("spec", "address")),
        Column("Internet-CIDR", _path("spec", "internetCIDR")),
        Column("NAT-Addresses", _nat_addresses),
        Column("Hosts", _length("spec", "hosts"), type="integer"),
        AGE,
    ),
    "ApplicationLoadBalancer": (
        NAME,
        Column("Group", _path("spec", "group")),
        Column("Scheme", _path("spec", "scheme")),
        Column("Address", _path("status", "address", default=_NONE)),
        Column("Ports", lambda alb: _joined(each["port"] for each in (alb.get("spec") or {}).get("listeners") or ())),
        AGE,
        Column("Hostname", _path("spec", "hostname"), wide=True),
    ),
    "DataPlane": (
        NAME,
        Column("Connected", _plane_nodes),
        Column("Flows", _plane_sum("flows"), type="integer"),
        Column("Groups", _plane_sum("groups"), type="integer"),
        AGE,
    ),
}
