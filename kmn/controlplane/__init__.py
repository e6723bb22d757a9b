"""The control plane: reconcilers that turn objects into other objects, until nothing is left to do.

One module a concern: ``workloads`` make pods, ``scheduler`` gives them nodes, ``nodeipam`` and ``podipam`` addresses,
``endpoints`` puts them behind Services. ``runtime`` runs them all in the cluster's asyncio loop. Nothing here touches
the kernel, and nothing is kept that the store does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache
from typing import cast

from kmn.cluster_spec import ClusterSpec
from kmn.controlplane.applicationloadbalancers import ApplicationLoadBalancers
from kmn.controlplane.dataplaneproblems import DataPlaneProblems
from kmn.controlplane.endpoints import EndpointSlices, Mirroring
from kmn.controlplane.gateways import Gateways
from kmn.controlplane.ingresscontrollers import IngressControllers
from kmn.controlplane.istiogateway import IstioGateway
from kmn.controlplane.loadbalancers import LoadBalancers, balancer_pools
from kmn.controlplane.namespaces import NamespaceContents
from kmn.controlplane.nodeipam import NodeIpam
from kmn.controlplane.podgc import PodGarbageCollector
from kmn.controlplane.podipam import PodIpam
from kmn.controlplane.runtime import LoopClient, Reconciler, Runtime
from kmn.controlplane.scheduler import Scheduler
from kmn.controlplane.sctpports import SctpPorts
from kmn.controlplane.unsupported import Unsupported
from kmn.controlplane.workloads.daemonsets import DaemonSets
from kmn.controlplane.workloads.deployments import Deployments
from kmn.controlplane.workloads.jobs import Jobs
from kmn.controlplane.workloads.replicasets import ReplicaSets
from kmn.controlplane.workloads.statefulsets import StatefulSets
from kmn.k8s.resources import REPLICASETS, REPLICATIONCONTROLLERS
from kmn.naming import Paths

__all__ = ["ControlPlane"]


class ControlPlane:
    """All reconcilers of a cluster. ``start`` is called from the loop; ``stop`` leaves all objects as they are.

    ``datapath_type`` tells which datapath bridges have, ``system`` or ``netdev``, once the machine was looked at;
    ``serve_ingress`` starts what runs in ingress controllers' pods.
    """

    def __init__(
        self,
        client: LoopClient,
        spec: ClusterSpec,
        datapath_type: Callable[[], str] = lambda: "netdev",
        serve_ingress: Callable[[], None] = lambda: None,
    ) -> None:
        self._spec = spec
        pools = balancer_pools(spec)
        serve = cache(serve_ingress)  # whoever asks first
        reconcilers = [
            NamespaceContents(client, self._root_ca),
            NodeIpam(client, spec),
            Deployments(client),
            ReplicaSets(client, REPLICASETS),
            ReplicaSets(client, REPLICATIONCONTROLLERS),
            StatefulSets(client),
            DaemonSets(client),
            Jobs(client),
            Unsupported(client),
            Scheduler(client),
            PodIpam(client, spec),
            PodGarbageCollector(client),
            EndpointSlices(client),
            Mirroring(client),
            LoadBalancers(client, spec, pools),
            ApplicationLoadBalancers(client, spec, pools["IPv4"]),
            IngressControllers(client, spec, serve),
            Gateways(client, serve),
            IstioGateway(client, serve),
            SctpPorts(client, datapath_type),
            DataPlaneProblems(client),
        ]
        self._runtime = Runtime(client, cast("list[Reconciler[Hashable]]", reconcilers))

    def start(self) -> None:
        """Begin to reconcile."""
        self._runtime.start()

    async def stop(self) -> None:
        """Stop between two reconciles."""
        await self._runtime.stop()

    def _root_ca(self) -> str:
        """The API server's certificate authority, "" before the server has one."""
        path = Paths(self._spec.name).pki / "ca.crt"
        return path.read_text() if path.exists() else ""
