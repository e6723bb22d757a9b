"""The objects that every cluster has from the start, as pure functions of its specification."""

from __future__ import annotations

from kmn.cluster_spec import ClusterSpec
from kmn.k8s.objects import Object

__all__ = ["API_PORT", "bootstrap_objects", "kubernetes_endpoints"]

API_PORT = 6443  # of the API server inside the cluster, on the fabric's address

_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")


def bootstrap_objects(spec: ClusterSpec) -> list[Object]:
    """The Cluster itself, the namespaces that kubeadm makes, and the API's own Service."""
    namespaces: list[Object] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in _NAMESPACES
    ]
    return [spec.to_object(), *namespaces, _kubernetes_service(spec)]


def kubernetes_endpoints(spec: ClusterSpec) -> list[Object]:
    """Endpoints and EndpointSlice of ``default/kubernetes``: written by the API server itself upstream, too."""
    address = str(spec.fabric_address)
    port = {"name": "https", "port": API_PORT, "protocol": "TCP"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {
                "name": "kubernetes",
                "namespace": "default",
                "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
            },
            "subsets": [{"addresses": [{"ip": address}], "ports": [port]}],
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "kubernetes",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
            "ports": [port],
        },
    ]


def _kubernetes_service(spec: ClusterSpec) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "clusterIP": str(spec.service_cidr[1]),
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": API_PORT}],
        },
    }
