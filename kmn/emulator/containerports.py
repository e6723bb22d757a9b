"""Which ports each container of a pod listens on. There are no images to ask: manifests are all that is known.

A container listens on every containerPort that it declares. The image behind many a manifest listens on more, as
Kubernetes treats ``ports`` as informational: a number that a container's probes ask at is its own, what no container
has but a Service that selects the pod sends its traffic to (a numeric targetPort) is the first container's.

The annotation ``kmn.io/program`` says that a real program listens in the pod: ``dns`` kmn's DNS server on port 53,
``ingress`` kmn's Envoy on 80, 443 and 10254, ``none`` whatever the user starts, so that nothing is emulated there. In
pods of a Gateway (annotation ``kmn.io/gateway``) Envoy listens on whatever ports the Gateway has.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from kmn.emulator.runtime.protocol import Port
from kmn.k8s.dataplane import GATEWAY, PROGRAM
from kmn.k8s.objects import Key, Object, annotation, key_of, labels, namespace_of

__all__ = ["ServiceIndex", "declared_ports", "is_sidecar", "named_port", "port_sets", "probed_ports", "target_ports"]

_Label = tuple[str, str]
# Where kmn's own programs listen; other ports of their pods are emulated.
_PROGRAM_PORTS = {"dns": {53}, "ingress": {80, 443, 10254}}


def declared_ports(container: Object) -> list[Port]:
    """containerPorts in the order of the manifest, each once."""
    ports = ((port.get("protocol", "TCP"), port["containerPort"]) for port in container.get("ports") or ())
    return list(dict.fromkeys(ports))


def named_port(container: Object, port: int | str) -> int | None:
    """The number of a probe's or hook's port; None when the container has none of that name."""
    if isinstance(port, int):
        return port
    if port.isdecimal():
        return int(port)
    return next((p["containerPort"] for p in container.get("ports") or () if p.get("name") == port), None)


def probed_ports(container: Object) -> list[Port]:
    """Ports of its own that a container's probes name by number."""
    probes = (container.get(kind) or {} for kind in ("startupProbe", "readinessProbe", "livenessProbe"))
    checks = (probe.get(check) or {} for probe in probes for check in ("httpGet", "tcpSocket", "grpc"))
    found = (named_port({}, check["port"]) for check in checks if "port" in check and not check.get("host"))
    return [("TCP", number) for number in dict.fromkeys(found) if number is not None]


def target_ports(service: Object) -> list[Port]:
    """Ports of pods that a Service names by number. Named ones are declared by the containers themselves.

    A headless Service may have no ports at all.
    """
    ports = service["spec"].get("ports") or ()
    found = ((port.get("protocol", "TCP"), port.get("targetPort", port["port"])) for port in ports)
    return [(protocol, number) for protocol, number in found if isinstance(number, int)]


def is_sidecar(container: Object) -> bool:
    """Whether an init container stays while the others run."""
    return container.get("restartPolicy") == "Always"


def port_sets(pod: Object, services: Iterable[Object]) -> dict[str, tuple[Port, ...]]:
    """Ports by container name. Init containers run and end without listening, unless they are sidecars."""
    spec = pod["spec"]
    running = [c for c in spec.get("initContainers") or () if is_sidecar(c)] + spec["containers"]
    ports = {container["name"]: declared_ports(container) for container in running}
    taken = {port for declared in ports.values() for port in declared}
    for container in running:
        for port in probed_ports(container):
            if port not in taken:
                taken.add(port)
                ports[container["name"]].append(port)
    first = ports[spec["containers"][0]["name"]]
    for service in services:
        for port in target_ports(service):
            if port not in taken:
                taken.add(port)
                first.append(port)
    program = annotation(pod, PROGRAM) if annotation(pod, GATEWAY) is None else "none"
    return {name: tuple(port for port in found if _emulated(port, program)) for name, found in ports.items()}


def _emulated(port: Port, program: str | None) -> bool:
    """Whether the runtime listens on a port, or leaves it to the pod's program."""
    return program is None or (program in _PROGRAM_PORTS and port[1] not in _PROGRAM_PORTS[program])


class ServiceIndex:
    """Services and pods of a cluster, found by each other without looking at all of them.

    Both are filed under (namespace, one label): a Service under the first label of its selector, a pod under each of
    its own. A pod's Services are thus among those filed under its labels.
    """

    def __init__(self) -> None:
        self._services: dict[Key, Object] = {}
        self._by_label: defaultdict[tuple[str, _Label], dict[Key, Object]] = defaultdict(dict)
        self._pods: defaultdict[tuple[str, _Label], set[str]] = defaultdict(set)
        self._labels: dict[str, tuple[str, Mapping[str, str]]] = {}

    def put_service(self, service: Object) -> set[str]:
        """Take in a new or changed Service. uids of the pods that it selects now or selected before."""
        affected = self.drop_service(key_of(service))
        selector = self._selector(service)
        if selector:
            key = key_of(service)
            self._services[key] = service
            self._by_label[self._file(service)][key] = service
            affected |= self._selected(service)
        return affected

    def drop_service(self, key: Key) -> set[str]:
        """uids of the pods that the Service selected."""
        service = self._services.pop(key, None)
        if service is None:
            return set()
        self._by_label[self._file(service)].pop(key, None)
        return self._selected(service)

    def put_pod(self, uid: str, pod: Object) -> bool:
        """Take in a pod; True if it is new here or its labels changed."""
        found = (namespace_of(pod), labels(pod))
        if self._labels.get(uid) == found:
            return False
        self.drop_pod(uid)
        self._labels[uid] = found
        for label in found[1].items():
            self._pods[found[0], label].add(uid)
        return True

    def drop_pod(self, uid: str) -> None:
        namespace, mine = self._labels.pop(uid, ("", {}))
        for label in mine.items():
            self._pods[namespace, label].discard(uid)

    def services_of(self, pod: Object) -> list[Object]:
        """Services that select a pod, in the order of their names."""
        mine = labels(pod)
        found = {
            key: service
            for label in mine.items()
            for key, service in self._by_label.get((namespace_of(pod), label), {}).items()
            if self._selector(service).items() <= mine.items()
        }
        return [found[key] for key in sorted(found)]

    @staticmethod
    def _selector(service: Object) -> dict[str, str]:
        return service["spec"].get("selector") or {}

    def _file(self, service: Object) -> tuple[str, _Label]:
        return namespace_of(service), next(iter(self._selector(service).items()))

    def _selected(self, service: Object) -> set[str]:
        wanted = self._selector(service).items()
        return {uid for uid in self._pods.get(self._file(service), ()) if wanted <= self._labels[uid][1].items()}
