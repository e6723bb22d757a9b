"""``kmn demo``: the shop of ``topologies/`` on several nodes, and a tour that shows it with real packets."""

from __future__ import annotations

import dataclasses
import json
import select
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape

from kmn.cli.terminal import console, errors
from kmn.cli.up import bring_up
from kmn.cluster import Cluster
from kmn.cluster_spec import ClusterSpec
from kmn.errors import UserError
from kmn.k8s.objects import Object, condition, labels, name_of, namespace_of
from kmn.k8s.resources import EDGES, ENDPOINTSLICES, NODES, PODS, SERVICES
from kmn.machine import Machine

__all__ = ["demo"]

_FILE = Path(__file__).resolve().parents[2] / "topologies" / "demo.yaml"
_SERVICES_SHOWN = 3
_CURL_REFUSED = 7  # curl's exit code
_WIDTH = 160  # of an answer


def demo(name: str | None, timeout: float, manifests: Sequence[str] = ()) -> int:
    """Bring it up, show it, and hand over to the Mininet CLI (or take it down, where there is nobody to type).

    ``manifests`` come instead of the shop: the tour takes what it finds.
    """
    if not _FILE.is_file():
        raise UserError(f"{_FILE}: no such file", "kmn demo works from the source tree, through ./kmn.sh")
    spec = ClusterSpec.load(_FILE)
    if manifests:
        spec = dataclasses.replace(spec, manifests=())
    cluster = Cluster(spec, name=name, manifests=manifests, start_timeout=timeout)
    try:
        complete = bring_up(cluster, detach=False, timeout=timeout)
        toured = _Tour(cluster).show()
        if sys.stdin.isatty() or _is_piped():
            from kmn.cli.shell import interact

            interact(cluster.net)
    except KeyboardInterrupt:
        errors().print(f"interrupted: taking cluster {cluster.name} down")
        raise
    finally:
        cluster.close()
    console().print(f"cluster {cluster.name} is down")
    return 0 if complete and toured else 1


def _is_piped() -> bool:
    """Whether somebody has written commands to standard input, or has closed it; an open pipe alone is nobody."""
    return bool(select.select([sys.stdin], [], [], 0)[0])


class _Tour:
    """What is there, and a few packets, all sent from one pod."""

    def __init__(self, cluster: Cluster) -> None:
        client = cluster.client
        self._cluster = cluster
        self._nodes, self._services = client.list(NODES).items, client.list(SERVICES).items
        self._pods = [pod for pod in client.list(PODS).items if (condition(pod, "Ready") or {}).get("status") == "True"]
        self._outside = [host for edge in client.list(EDGES).items for host in edge["spec"].get("hosts") or ()]

    def show(self) -> bool:
        """Whether all packets fared as they should."""
        self._inventory()
        here = self._client_pod()
        if here is None:
            errors().print("no pod is ready: nothing to show")
            return False
        machine, node = self._cluster.pod(name_of(here), namespace_of(here)), here["spec"]["nodeName"]
        good = True
        there = next((pod for pod in self._pods if pod["spec"].get("nodeName") != node), None)
        if there is not None:
            _say("Pod to pod", f"from {node} to {there['spec']['nodeName']}, routed, without NAT")
            good &= _run(machine, ["ping", "-c", "2", "-i", "0.2", "-W", "2", there["status"]["podIP"]])
        served, refused = self._cluster_ip_services(namespace_of(here))
        if served:
            _say("Services", "a name from the cluster's DNS; flows on the node's bridge pick an endpoint and rewrite")
        for url in self._urls(served)[:_SERVICES_SHOWN]:
            good &= _run(machine, ["curl", "-sS", "--max-time", "5", url])
        for url in self._urls(refused)[:1]:
            _say("Refused", "a Service without endpoints says no at once")
            good &= _run(machine, ["curl", "-sS", "--max-time", "5", url], exit_code=_CURL_REFUSED)
        for host in self._outside[:1]:
            _say("The way out", f"host {host['name']} of the emulated internet sees the public address of the NAT")
            good &= _run(machine, ["curl", "-sS", "--max-time", "5", f"http://{host['ip']}/"])
        console().print("\n[bold]Your turn[/], here or in another terminal:")
        for command, rest in (
            ("exec", f"-it {name_of(here)} -- bash"),
            ("ovs", f"{node} -- ofctl dump-flows br0"),
            ("get", "pods -o wide"),
        ):
            console().print(f"  sudo ./kmn.sh {command} --name {self._cluster.name} {rest}", soft_wrap=True)
        return good

    def _inventory(self) -> None:
        nodes, pods, services = len(self._nodes), len(self._pods), len(self._services)
        _say(
            f"{nodes} nodes, {pods} pods, {services} Services", "a pod is a network namespace, a node runs Open vSwitch"
        )
        for node in self._nodes:
            own = sorted(name_of(pod) for pod in self._pods if pod["spec"].get("nodeName") == name_of(node))
            console().print(f"  {name_of(node)}: {', '.join(own) or '-'}")

    def _client_pod(self) -> Object | None:
        """A pod to look from: best one that is behind no Service, so that no answer is its own."""
        pods = [pod for pod in self._pods if not pod["spec"].get("hostNetwork")]
        pods.sort(key=lambda pod: (namespace_of(pod) == "kube-system", any(_selects(s, pod) for s in self._services)))
        return pods[0] if pods else None

    def _cluster_ip_services(self, namespace: str) -> tuple[list[Object], list[Object]]:
        """Services of a namespace that have an address and select pods: those with endpoints, and those without."""
        slices = self._cluster.client.list(ENDPOINTSLICES, namespace).items
        served = {labels(s).get("kubernetes.io/service-name") for s in slices if s.get("endpoints")}
        virtual = [
            service
            for service in self._services
            if namespace_of(service) == namespace
            and service["spec"].get("selector")
            and service["spec"].get("clusterIP") not in (None, "", "None")
        ]
        return [s for s in virtual if name_of(s) in served], [s for s in virtual if name_of(s) not in served]

    @staticmethod
    def _urls(services: list[Object]) -> list[str]:
        """URLs of Services whose first port takes TCP."""
        first = [(name_of(service), service["spec"]["ports"][0]) for service in services]
        return [f"http://{name}:{port['port']}/" for name, port in first if port.get("protocol", "TCP") == "TCP"]


def _selects(service: Object, pod: Object) -> bool:
    selector = service["spec"].get("selector")
    return bool(selector) and namespace_of(service) == namespace_of(pod) and selector.items() <= labels(pod).items()


def _say(what: str, text: str) -> None:
    console().print(f"\n[bold]{what}[/]: {text}")


def _run(machine: Machine, args: list[str], exit_code: int = 0) -> bool:
    """Run a command, show it with its answer; whether it ended as it should."""
    console().print(f"  [cyan]{escape(machine.hostname)}$ {escape(shlex.join(args))}[/]", soft_wrap=True)
    done = machine.run(args, timeout=30)
    text = _shortened(done.stdout or done.stderr)
    for line in text.splitlines() or [f"(no answer, exit code {done.returncode})"]:
        console().print(f"    {escape(line)}", soft_wrap=True)
    return done.returncode == exit_code


def _shortened(text: str) -> str:
    """The fields of an emulated container's answer that tell who it was; other text as it is."""
    try:
        answer: dict[str, Any] = json.loads(text)
        keep = {key: answer[key] for key in ("pod", "node", "container", "port", "client", "path") if key in answer}
        return json.dumps(keep)
    except (ValueError, TypeError):
        return "\n".join(line[:_WIDTH] for line in text.strip().splitlines())
