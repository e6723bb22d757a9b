"""All that Envoy reads: listeners, route configurations, clusters and certificates, for a :class:`Routing`.

Envoy reads each kind of resource from a file of its own and watches it, so that nothing is ever reloaded: see ``proxy``
for the order in which files change. The bootstrap alone is fixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kmn.ingress.backends import Endpoints
from kmn.ingress.certificates import KeyPair
from kmn.ingress.envoy.clusters import cluster
from kmn.ingress.envoy.forms import Resource, file_source
from kmn.ingress.envoy.listeners import Certificates, health_listener, listener
from kmn.ingress.envoy.routes import route_configuration
from kmn.ingress.model import Routing, Upstream
from kmn.ingress.regexes import LARGEST
from kmn.k8s.objects import Key

__all__ = ["ADMIN_SOCKET", "CLUSTERS_FILE", "LISTENERS_FILE", "Config", "bootstrap", "config_of"]

ADMIN_SOCKET = "admin.sock"
LISTENERS_FILE, CLUSTERS_FILE = "listeners.json", "clusters.json"
# Of regular expressions. A larger one would make Envoy refuse all routes; ``regexes`` refuses it alone.
_LIMITS = {f"re2.max_program_size.{level}_level": LARGEST for level in ("error", "warn")}


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that changes. Routes by their table, clusters by name, secrets by the name of their file; and what it
    was made of, for those who explain it."""

    listeners: tuple[Resource, ...]
    routes: Mapping[str, Resource]
    clusters: Mapping[str, Resource]
    secrets: Mapping[str, Resource]
    routing: Routing
    endpoints: Mapping[Upstream, Endpoints]
    certified: frozenset[Key]  # Secrets whose certificate is shown


def config_of(
    routing: Routing,
    endpoints: Mapping[Upstream, Endpoints],
    pairs: Mapping[Key, KeyPair],
    default_certificate: KeyPair,
    *,
    dual_stack: bool = False,
) -> Config:
    """``pairs`` has the Secrets that are good for something; ``endpoints`` all upstreams of the routing. With
    ``dual_stack`` clients may come by IPv6, too."""
    certificates = Certificates(default_certificate, pairs)
    return Config(
        listeners=tuple(listener(entrance, certificates, dual_stack=dual_stack) for entrance in routing.entrances),
        routes={name: route_configuration(name, table) for name, table in routing.tables.items()},
        clusters={str(upstream): cluster(upstream, found) for upstream, found in endpoints.items()},
        secrets=certificates.files(),
        routing=routing,
        endpoints=endpoints,
        certified=frozenset(pairs),
    )


def bootstrap() -> Resource:
    """What Envoy starts with; paths are relative to its working directory."""
    return {
        "node": {"id": "ingress", "cluster": "ingress"},
        "admin": {"address": {"pipe": {"path": ADMIN_SOCKET}}},
        "dynamic_resources": {"lds_config": file_source(LISTENERS_FILE), "cds_config": file_source(CLUSTERS_FILE)},
        "static_resources": {"listeners": [health_listener()]},
        "layered_runtime": {"layers": [{"name": "limits", "static_layer": _LIMITS}]},
        # Only those that ``proxy`` asks for. A cluster has a hundred: those of a thousand take 40 ms to look through.
        "stats_config": {"stats_matcher": {"inclusion_list": {"patterns": [{"suffix": ".version_text"}]}}},
    }
