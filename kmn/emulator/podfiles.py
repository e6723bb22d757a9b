"""The files that a kubelet writes into a pod, ``/etc/resolv.conf`` and ``/etc/hosts``, a node's own, and those of hosts
outside, as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kmn.cluster_spec import ClusterSpec
from kmn.k8s.objects import Object, name_of, namespace_of

__all__ = ["hostname", "hosts", "node_resolv_conf", "outside_resolv_conf", "resolv_conf"]

# glibc reads so many nameservers; the API refuses more.
_MAX_NAMESERVERS = 3


def hostname(pod: Object) -> str:
    """``spec.hostname`` or the pod's name, cut to what the kernel takes."""
    return (pod["spec"].get("hostname") or name_of(pod))[:63].rstrip("-.")


def node_resolv_conf(spec: ClusterSpec) -> str:
    """Text of a node's resolv.conf: it asks outside, and knows nothing of the cluster's names."""
    return "".join(f"nameserver {server}\n" for server in spec.dns.upstreams[:_MAX_NAMESERVERS])


def outside_resolv_conf(spec: ClusterSpec) -> str:
    """Text of resolv.conf of a host of the internet: it asks those that answer for the internet's names."""
    servers = [host.address for host in spec.outside_hosts if host.dns]
    return "".join(f"nameserver {server}\n" for server in servers[:_MAX_NAMESERVERS])


def resolv_conf(pod: Object, spec: ClusterSpec, node: str) -> str:
    """Text of a pod's resolv.conf. ``node`` is that of its node: what dnsPolicy Default means."""
    policy = pod["spec"].get("dnsPolicy", "ClusterFirst")
    if policy == "ClusterFirst" and pod["spec"].get("hostNetwork"):
        policy = "Default"  # the API's own rule: hostNetwork pods ask for ClusterFirstWithHostNet
    match policy:
        case "ClusterFirst" | "ClusterFirstWithHostNet":
            domain = spec.cluster_domain
            servers = [str(spec.dns_address)]
            search = [f"{namespace_of(pod)}.svc.{domain}", f"svc.{domain}", domain]
            options = ["ndots:5"]
        case "None":
            servers, search, options = [], [], []
        case _:
            servers, search, options = _parse(node)
    config: dict[str, Any] = pod["spec"].get("dnsConfig") or {}
    servers = _unique([*servers, *(config.get("nameservers") or ())])[:_MAX_NAMESERVERS]
    search = _unique([*search, *(config.get("searches") or ())])
    options = _merge(options, config.get("options") or ())
    lines = []
    if search:
        lines.append("search " + " ".join(search))
    lines += [f"nameserver {server}" for server in servers]
    if options:
        lines.append("options " + " ".join(options))
    return "".join(line + "\n" for line in lines)


def hosts(pod: Object, spec: ClusterSpec) -> str:
    """Text of a pod's hosts file, as the kubelet writes it."""
    name = hostname(pod)
    names = [name]
    if subdomain := pod["spec"].get("subdomain"):
        names.insert(0, f"{name}.{subdomain}.{namespace_of(pod)}.svc.{spec.cluster_domain}")
    lines = [
        "# Kubernetes-managed hosts file.",
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "fe00::0\tip6-localnet",
        "fe00::0\tip6-mcastprefix",
        "fe00::1\tip6-allnodes",
        "fe00::2\tip6-allrouters",
    ]
    lines += ["\t".join((address["ip"], *names)) for address in pod["status"].get("podIPs") or ()]
    if aliases := pod["spec"].get("hostAliases"):
        lines += ["", "# Entries added by HostAliases."]
        lines += ["\t".join((alias["ip"], *(alias.get("hostnames") or ()))) for alias in aliases]
    return "".join(line + "\n" for line in lines)


def _unique(words: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(words))


def _parse(text: str) -> tuple[list[str], list[str], list[str]]:
    """Nameservers, search list and options of a resolv.conf."""
    servers: list[str] = []
    search: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        match line.split():
            case ["nameserver", server, *_]:
                servers.append(server)
            case ["search", *domains]:
                search = domains  # the last one counts
            case ["options", *words]:
                options += words
    return servers, search, options


def _merge(options: Sequence[str], changes: Sequence[dict[str, str]]) -> list[str]:
    """Options of dnsConfig replace those of the same name."""
    merged = {word.partition(":")[0]: word for word in options}
    for change in changes:
        name, value = change["name"], change.get("value")
        merged[name] = name if value is None else f"{name}:{value}"
    return list(merged.values())
