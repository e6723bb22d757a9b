"""Envoy's configuration for a :class:`Routing`, as data: the JSON form of its v3 API. Pure.

Listeners on the ports 80 and 443 (certificates by SNI) lead to one route configuration; a virtual host is a host, a
cluster a backend. Envoy reads each kind of resource from a file of its own and watches it, so that nothing is ever
reloaded: see ``proxy`` for the order in which files change. The bootstrap alone is fixed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from kmn.ingress.certificates import KeyPair
from kmn.ingress.model import ANY_HOST, Backend, Host, Routing, Rule
from kmn.k8s.objects import Key

__all__ = ["ADMIN_SOCKET", "Config", "Resource", "bootstrap", "config_of"]

Resource: TypeAlias = dict[str, Any]

ADMIN_SOCKET = "admin.sock"
HTTP_PORT, HTTPS_PORT, HEALTH_PORT = 80, 443, 10254

_TYPES = "type.googleapis.com/envoy"
_ROUTES = "ingress"  # the route configuration, and what its statistics go by
_DEFAULT_CERTIFICATE = "default"
# A watched file costs Envoy an inotify instance, of which a user has 128 by default, for all processes. Certificates
# beyond these are part of the listener: connections that were made with one are drained when it changes.
_WATCHED_CERTIFICATES = 32
# What backends are told of the client, as ingress-nginx does it: what the client itself says of that is not believed.
_FORWARDED = {
    "X-Forwarded-For": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "X-Forwarded-Host": "%REQ(:AUTHORITY)%",
    "X-Forwarded-Port": "%DOWNSTREAM_LOCAL_PORT%",
    "X-Real-IP": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
}
_MANY = 1_000_000  # no limit: Envoy's own are for one upstream of a mesh
# As ingress-nginx has them: proxy-connect-timeout, proxy-read-timeout, keep-alive.
_CONNECT_TIMEOUT, _IDLE_REQUEST, _KEEP_ALIVE = "5s", "60s", "75s"


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that changes. Clusters by name; secrets by the name of their file."""

    listeners: tuple[Resource, ...]
    routes: Resource
    clusters: Mapping[str, Resource]
    secrets: Mapping[str, Resource]


def config_of(
    routing: Routing,
    endpoints: Mapping[Backend, Iterable[tuple[str, int]]],
    certificates: Mapping[Key, KeyPair],
    default_certificate: KeyPair,
) -> Config:
    """A host whose Secret is not among the certificates is served with the default one. ``endpoints`` has all
    backends of the routing."""
    pairs = {_DEFAULT_CERTIFICATE: default_certificate}
    pairs |= {str(secret): pair for secret, pair in certificates.items()}
    watched = dict(list(pairs.items())[:_WATCHED_CERTIFICATES])
    hosts = {c.host: str(c.secret) for c in routing.certificates if str(c.secret) in pairs}
    sources = {name: _certificate(name, pair, watched=name in watched) for name, pair in pairs.items()}
    chains = [
        {
            "name": host,
            "filter_chain_match": {"server_names": [host]},
            **_https_chain(sources[name]),
        }
        for host, name in hosts.items()
    ]
    return Config(
        listeners=(
            {**_listener("http", HTTP_PORT), "filter_chains": [{"filters": [_connection_manager()]}]},
            {
                **_listener("https", HTTPS_PORT),
                "listener_filters": [_typed("envoy.filters.listener.tls_inspector",
                                            "extensions.filters.listener.tls_inspector.v3.TlsInspector")],
                "filter_chains": chains,
                "default_filter_chain": {"name": _DEFAULT_CERTIFICATE, **_https_chain(sources[_DEFAULT_CERTIFICATE])},
            },
        ),
        routes=_routes(routing),
        clusters={str(backend): _cluster(backend, addresses) for backend, addresses in endpoints.items()},
        secrets={_secret_file(name): _secret(name, pair) for name, pair in watched.items()},
    )  # fmt: skip


def bootstrap() -> Resource:
    """What Envoy starts with; paths are relative to its working directory."""
    return {
        "node": {"id": "ingress", "cluster": "ingress"},
        "admin": {"address": {"pipe": {"path": ADMIN_SOCKET}}},
        "dynamic_resources": {"lds_config": _file("listeners.json"), "cds_config": _file("clusters.json")},
        "static_resources": {"listeners": [_health()]},
        # Only those that ``proxy`` asks for. A cluster has a hundred: those of a thousand take 40 ms to look through.
        "stats_config": {"stats_matcher": {"inclusion_list": {"patterns": [{"suffix": ".version_text"}]}}},
    }


# --- listeners --------------------------------------------------------------------------------------------------


def _listener(name: str, port: int) -> Resource:
    return {
        "@type": f"{_TYPES}.config.listener.v3.Listener",
        "name": name,
        "address": _address("0.0.0.0", port),
        # Nobody else may listen there beside: connections would be lost to it.
        "enable_reuse_port": False,
    }


def _connection_manager() -> Resource:
    source = {"config_source": _file("routes.json"), "route_config_name": _ROUTES}
    return _http_filter(
        rds=source,
        use_remote_address=True,
        server_header_transformation="PASS_THROUGH",
        upgrade_configs=[{"upgrade_type": "websocket"}],
        strip_trailing_host_dot=True,
        http_protocol_options={"accept_http_10": True},
        common_http_protocol_options={"idle_timeout": _KEEP_ALIVE},
    )


def _http_filter(**fields: Any) -> Resource:
    manager = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    router = _typed("envoy.filters.http.router", "extensions.filters.http.router.v3.Router")
    # Counters by answer, which nobody reads, take 5 % of the processor time of a request.
    router["typed_config"] |= {"suppress_envoy_headers": True, "dynamic_stats": False}
    found = _typed("envoy.filters.network.http_connection_manager", manager)
    found["typed_config"] |= {"stat_prefix": _ROUTES, "http_filters": [router], **fields}
    return found


def _https_chain(certificate: Resource) -> Resource:
    context = {"common_tls_context": {"alpn_protocols": ["h2", "http/1.1"], **certificate}}
    socket = _typed("envoy.transport_sockets.tls", "extensions.transport_sockets.tls.v3.DownstreamTlsContext")
    socket["typed_config"] |= context
    return {"transport_socket": socket, "filters": [_connection_manager()]}


def _health() -> Resource:
    """What the readiness probe asks."""
    answer = {"match": {"path": "/healthz"}, "direct_response": {"status": 200}}
    host = {"name": "health", "domains": ["*"], "routes": [answer]}
    manager = _http_filter(route_config={"name": "health", "virtual_hosts": [host]})
    manager["typed_config"] |= {
        "stat_prefix": "health",
        "delayed_close_timeout": "0s",  # a probe reads to the end of the connection
    }
    listener = {**_listener("health", HEALTH_PORT), "filter_chains": [{"filters": [manager]}]}
    del listener["@type"]
    return listener


# --- certificates -----------------------------------------------------------------------------------------------


def _certificate(name: str, pair: KeyPair, *, watched: bool) -> Resource:
    """Fields of a TLS context: where its certificate is, or the certificate."""
    if not watched:
        return {"tls_certificates": [_pem(pair)]}
    return {
        "tls_certificate_sds_secret_configs": [{"name": name, "sds_config": _file(_secret_file(name))}],
    }


def _secret(name: str, pair: KeyPair) -> Resource:
    kind = f"{_TYPES}.extensions.transport_sockets.tls.v3.Secret"
    return {"@type": kind, "name": name, "tls_certificate": _pem(pair)}


def _pem(pair: KeyPair) -> Resource:
    return {"certificate_chain": {"inline_string": pair.certificate}, "private_key": {"inline_string": pair.key}}


def _secret_file(name: str) -> str:
    """A Secret's own name may be too long for a file."""
    return f"secret-{hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()[:16]}.json"


# --- routes -----------------------------------------------------------------------------------------------------


def _routes(routing: Routing) -> Resource:
    named = [host for host in routing.hosts if host.name != ANY_HOST]
    fallback = next((host for host in routing.hosts if host.name == ANY_HOST), Host(ANY_HOST, (), routing.default))
    return {
        "@type": f"{_TYPES}.config.route.v3.RouteConfiguration",
        "name": _ROUTES,
        "ignore_port_in_host_matching": True,
        "request_headers_to_add": [
            {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            for name, value in _FORWARDED.items()
        ],
        "virtual_hosts": [*(_virtual_host(host, fallback) for host in named), _virtual_host(fallback, fallback)],
    }


def _virtual_host(host: Host, fallback: Host) -> Resource:
    if not host.name.startswith("*."):
        return {"name": host.name or "*", "domains": [host.name or "*"], "routes": list(_host_routes(host, {}))}
    # Envoy's wildcard stands for any number of labels, Ingress's for one: hosts with more are nobody's.
    guard = {"headers": [{"name": ":authority", "string_match": {"safe_regex": {"regex": _one_label(host.name)}}}]}
    routes = list(_host_routes(host, guard))
    if host.default is None:
        routes.append({"match": {"prefix": "/", **guard}, "direct_response": {"status": 404}})
    return {"name": host.name, "domains": [host.name], "routes": [*routes, *_host_routes(fallback, {})]}


def _one_label(wildcard: str) -> str:
    return rf"(?i)[^.:]+{re.escape(wildcard[1:])}(:[0-9]+)?"


def _host_routes(host: Host, guard: Resource) -> Iterable[Resource]:
    for rule in host.rules:
        yield {"match": {**_path_match(rule), **guard}, "route": _to(rule.backend)}
    if host.default is not None:
        yield {"match": {"prefix": "/", **guard}, "route": _to(host.default)}


def _path_match(rule: Rule) -> Resource:
    if rule.exact:
        return {"path": rule.path}
    return {"path_separated_prefix": rule.path} if rule.path else {"prefix": "/"}


def _to(backend: Backend) -> Resource:
    return {
        "cluster": str(backend),
        "timeout": "0s",  # a request may take long as long as it goes on
        "idle_timeout": _IDLE_REQUEST,
        "retry_policy": {"retry_on": "connect-failure,refused-stream,reset-before-request", "num_retries": 1},
    }


# --- clusters ---------------------------------------------------------------------------------------------------


def _cluster(backend: Backend, addresses: Iterable[tuple[str, int]]) -> Resource:
    """Without endpoints requests are answered 503."""
    ends = [{"endpoint": {"address": _address(ip, port)}} for ip, port in addresses]
    thresholds = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests", "max_retries"), _MANY)
    return {
        "@type": f"{_TYPES}.config.cluster.v3.Cluster",
        "name": str(backend),
        "type": "STATIC",
        "connect_timeout": _CONNECT_TIMEOUT,
        "circuit_breakers": {"thresholds": [thresholds]},
        "load_assignment": {"cluster_name": str(backend), "endpoints": [{"lb_endpoints": ends}]},
    }


# --- forms ------------------------------------------------------------------------------------------------------


def _address(ip: str, port: int) -> Resource:
    return {"socket_address": {"address": ip, "port_value": port}}


def _file(name: str) -> Resource:
    return {"path_config_source": {"path": f"./{name}"}, "resource_api_version": "V3"}


def _typed(name: str, kind: str) -> Resource:
    return {"name": name, "typed_config": {"@type": f"{_TYPES}.{kind}"}}
