"""``kmn demo``: the shop of ``topologies/`` on several nodes, and a tour that shows it with real packets."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.markup import escape

from kmn.cli.terminal import console, errors
from kmn.cli.up import bring_up
from kmn.cluster import Cluster
from kmn.errors import UserError
from kmn.k8s.objects import Object, condition, labels, name_of, namespace_of
from kmn.k8s.resources import ENDPOINTSLICES, NODES, PODS, SERVICES
from kmn.machine import Machine

__all__ = ["demo"]

_FILE = Path(__file__).resolve().parents[2] / "topologies" / "demo.yaml"
_SERVICES_SHOWN = 3
_WIDTH = 160  # of an answer


def demo(name: str | None, timeout: float) -> int:
    """Bring it up, show it, and hand over to the Mininet CLI (or take it down, where nobody is at the keyboard)."""
    if not _FILE.is_file():
        raise UserError(f"{_FILE}: no such file", "kmn demo works from the source tree, through ./kmn.sh")
    cluster = Cluster(_FILE, name=name, start_timeout=timeout)
    try:
        complete = bring_up(cluster, detach=False, timeout=timeout)
        toured = _tour(cluster)
        if sys.stdin.isatty():
            from kmn.cli.shell import interact

            interact(cluster.net)
    except KeyboardInterrupt:
        errors().print(f"interrupted: taking cluster {cluster.name} down")
        raise
    finally:
        cluster.close()
    console().print(f"cluster {cluster.name} is down")
    return 0 if complete and toured else 1


def _tour(cluster: Cluster) -> bool:
    """Show what is there and send packets; whether all of them came through."""
    client = cluster.client
    nodes, services = client.list(NODES).items, client.list(SERVICES).items
    pods = [pod for pod in client.list(PODS).items if (condition(pod, "Ready") or {}).get("status") == "True"]
    console().print(f"\n[bold]{len(nodes)} nodes, {len(pods)} pods, {len(services)} Services.[/] Each node has its own"
                    " Open vSwitch; a pod is a network namespace.")  # fmt: skip
    for node in nodes:
        own = sorted(name_of(pod) for pod in pods if pod["spec"].get("nodeName") == name_of(node))
        console().print(f"  {name_of(node)}: {', '.join(own) or '-'}")
    here = next((pod for pod in pods if not pod["spec"].get("hostNetwork")), None)
    if here is None:
        errors().print("no pod is ready: nothing to show")
        return False
    there = next((p for p in pods if p["spec"].get("nodeName") != here["spec"].get("nodeName")), None)
    client_pod = cluster.pod(name_of(here), namespace_of(here))
    good = True
    if there is not None:
        console().print(f"\n[bold]Pod to pod[/], from node {here['spec']['nodeName']} to {there['spec']['nodeName']},"
                        " without NAT:")  # fmt: skip
        good &= _show(client_pod, ["ping", "-c", "2", "-i", "0.2", "-W", "2", there["status"]["podIP"]])
    console().print("\n[bold]Services[/]: flows on the node's bridge pick an endpoint, and rewrite the address:")
    for url in _urls(_served(cluster, services, namespace_of(here)), named=_has_dns(services)):
        good &= _show(client_pod, ["curl", "-s", "--max-time", "5", url])
    pod, node = name_of(here), here["spec"]["nodeName"]
    for line in (f"kmn exec {pod} -- bash", f"kmn ovs {node} -- ofctl dump-flows br0", "kmn get pods -A -o wide"):
        console().print(f"  try [bold]{line}[/]")
    return good


def _served(cluster: Cluster, services: list[Object], namespace: str) -> list[Object]:
    """Services of a namespace that have an address and an endpoint."""
    slices = cluster.client.list(ENDPOINTSLICES, namespace).items
    served = {labels(s).get("kubernetes.io/service-name") for s in slices if s.get("endpoints")}
    return [
        service
        for service in services
        if namespace_of(service) == namespace
        and name_of(service) in served
        and service["spec"].get("selector")
        and service["spec"].get("clusterIP") not in (None, "", "None")
    ]


def _urls(services: list[Object], *, named: bool) -> Iterator[str]:
    """URLs of the first Services whose first port takes TCP."""
    tcp = [s for s in services if s["spec"]["ports"][0].get("protocol", "TCP") == "TCP"]
    for service in tcp[:_SERVICES_SHOWN]:
        port = service["spec"]["ports"][0]["port"]
        yield f"http://{name_of(service) if named else service['spec']['clusterIP']}:{port}/"


def _has_dns(services: list[Object]) -> bool:
    return any(namespace_of(s) == "kube-system" and name_of(s) == "kube-dns" for s in services)


def _show(machine: Machine, args: list[str]) -> bool:
    """Run a command, show it with its answer; whether it worked."""
    console().print(f"  [cyan]{escape(machine.hostname)}$ {escape(shlex.join(args))}[/]")
    done = machine.run(args, timeout=30)
    for line in _shortened(done.stdout).splitlines() or [f"(no answer, exit code {done.returncode})"]:
        console().print(f"    {escape(line)}", soft_wrap=True)
    return done.returncode == 0


def _shortened(text: str) -> str:
    """The fields of an emulated container's answer that tell who it was; other text as it is."""
    try:
        answer: dict[str, Any] = json.loads(text)
        keep = {key: answer[key] for key in ("pod", "node", "container", "port", "client", "path") if key in answer}
        return json.dumps(keep)
    except (ValueError, TypeError):
        return "\n".join(line[:_WIDTH] for line in text.strip().splitlines())
