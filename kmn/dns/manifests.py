"""The objects that put the DNS server into the cluster: what kubeadm deploys, as far as it means something here.

There is no image to run: the annotation ``kmn.io/program: dns`` says that kmn's own server (``kmn.dns``) listens in
these pods. The other ports (metrics, health, ready) are emulated like those of any container.
"""

from __future__ import annotations

from typing import Any

from kmn.cluster_spec import ClusterSpec
from kmn.k8s.dataplane import PROGRAM
from kmn.k8s.objects import Object

__all__ = ["DNS_PROGRAM", "dns_objects"]

DNS_PROGRAM = "dns"

_NAMESPACE = "kube-system"
_LABELS = {"k8s-app": "kube-dns"}
_IMAGE = "registry.k8s.io/coredns/coredns:v1.12.1"
_PORTS = [("dns", 53, "UDP"), ("dns-tcp", 53, "TCP"), ("metrics", 9153, "TCP")]  # of the Service
_PROBE_PORTS = [("liveness-probe", 8080, "TCP"), ("readiness-probe", 8181, "TCP")]


def dns_objects(spec: ClusterSpec) -> list[Object]:
    """ServiceAccount, Deployment of two replicas and Service ``kube-system/kube-dns``, in the order to create them."""
    return [_service_account(), _deployment(), _service(spec)]


def _service_account() -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "coredns", "namespace": _NAMESPACE},
    }


def _deployment() -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "coredns", "namespace": _NAMESPACE, "labels": dict(_LABELS)},
        "spec": {
            "replicas": 2,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
            "selector": {"matchLabels": dict(_LABELS)},
            "template": {
                "metadata": {"labels": dict(_LABELS), "annotations": {PROGRAM: DNS_PROGRAM}},
                "spec": _pod_spec(),
            },
        },
    }


def _pod_spec() -> dict[str, Any]:
    spread = {"labelSelector": {"matchLabels": dict(_LABELS)}, "topologyKey": "kubernetes.io/hostname"}
    return {
        "priorityClassName": "system-cluster-critical",
        "serviceAccountName": "coredns",
        "dnsPolicy": "Default",  # it must not ask itself
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [
            {"key": "CriticalAddonsOnly", "operator": "Exists"},
            {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"},
        ],
        "affinity": {
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": spread}]
            }
        },
        "containers": [
            {
                "name": "coredns",
                "image": _IMAGE,
                "ports": [
                    {"name": n, "containerPort": p, "protocol": protocol} for n, p, protocol in _PORTS + _PROBE_PORTS
                ],
                "livenessProbe": _probe("/health", "liveness-probe"),
                "readinessProbe": _probe("/ready", "readiness-probe"),
            }
        ],
    }


def _probe(path: str, port: str) -> dict[str, Any]:
    """CoreDNS' own probes, without the minute that upstream waits for a slow start."""
    return {
        "httpGet": {"path": path, "port": port, "scheme": "HTTP"},
        "timeoutSeconds": 5,
        "successThreshold": 1,
        "failureThreshold": 5,
    }


def _service(spec: ClusterSpec) -> Object:
    families: dict[str, Any] = {}
    if spec.ipv6:
        addresses = [str(spec.dns_address), str(spec.ipv6.dns_address)]
        families = {"ipFamilyPolicy": "PreferDualStack", "clusterIPs": addresses}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kube-dns",
            "namespace": _NAMESPACE,
            "labels": {**_LABELS, "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"},
            "annotations": {"prometheus.io/port": "9153", "prometheus.io/scrape": "true"},
        },
        "spec": {
            "selector": dict(_LABELS),
            "clusterIP": str(spec.dns_address),
            **families,
            "ports": [{"name": n, "port": p, "protocol": protocol, "targetPort": p} for n, p, protocol in _PORTS],
        },
    }
