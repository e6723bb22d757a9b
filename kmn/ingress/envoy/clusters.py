"""Clusters: an upstream of a routing is one, with the addresses of its endpoints."""

from __future__ import annotations

from kmn.ingress.backends import Endpoints
from kmn.ingress.envoy.forms import Resource, address, kind, seconds, typed
from kmn.ingress.model import Balance, HealthCheck, Protocol, Upstream

__all__ = ["cluster"]

_MANY = 1_000_000  # no limit: Envoy's own are for one upstream of a mesh
_ALL_ILL = 1  # percent, which Envoy rounds: none of up to a hundred is well
_POLICIES = {
    Balance.ROUND_ROBIN: "ROUND_ROBIN",
    Balance.LEAST_REQUESTS: "LEAST_REQUEST",
    Balance.HASH: "RING_HASH",
}
_CONNECT_TIMEOUT = 5.0  # seconds, as ingress-nginx' proxy-connect-timeout


def cluster(upstream: Upstream, endpoints: Endpoints) -> Resource:
    """Without endpoints requests are answered 503."""
    check = upstream.health.port if upstream.health is not None else None
    elsewhere = {"health_check_config": {"port_value": check}} if check is not None else {}
    ends = [{"endpoint": {"address": address(ip, port), **elsewhere}} for ip, port in endpoints.addresses]
    thresholds = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests", "max_retries"), _MANY)
    name = str(upstream)
    patience = _CONNECT_TIMEOUT if upstream.connect_timeout is None else upstream.connect_timeout
    return {
        "@type": kind("config.cluster.v3.Cluster"),
        "name": name,
        **(_by_name(endpoints.resolver) if endpoints.external else {"type": "STATIC"}),
        "connect_timeout": seconds(patience),
        "lb_policy": _POLICIES[upstream.balance],
        "circuit_breakers": {"thresholds": [thresholds]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": ends}]},
        **_protocol(endpoints.spoken(upstream)),
        **(_checked(upstream.health, endpoints.spoken(upstream)) if upstream.health is not None else {}),
    }


def _by_name(resolver: str) -> Resource:
    """The name's addresses, asked for again as often as its TTL says. Nobody else waits for them."""
    message = "extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig"
    options = {"no_default_search_domain": True}
    cares = typed("envoy.network.dns_resolver.cares", message, resolvers=[address(resolver, 53)],
                  dns_resolver_options=options)  # fmt: skip
    return {
        "type": "STRICT_DNS",
        "typed_dns_resolver_config": cares,
        "dns_lookup_family": "V4_PREFERRED",
        "respect_dns_ttl": True,
        "wait_for_warm_on_init": False,
    }


def _checked(health: HealthCheck, protocol: Protocol) -> Resource:
    """Fields of a cluster whose endpoints are asked. Where all are ill, all get requests."""
    codec = "HTTP2" if protocol in (Protocol.H2C, Protocol.H2) else "HTTP1"
    question: Resource = {
        "path": health.path,
        "codec_client_type": codec,
        "expected_statuses": [{"start": first, "end": last + 1} for first, last in health.codes],
    }
    check = {
        "timeout": seconds(health.timeout),
        "interval": seconds(health.interval),
        "no_traffic_interval": seconds(health.interval),
        "healthy_threshold": health.healthy,
        "unhealthy_threshold": health.unhealthy,
        **({"tcp_health_check": {}} if health.grpc else {"http_health_check": question}),
    }
    return {"health_checks": [check], "common_lb_config": {"healthy_panic_threshold": {"value": _ALL_ILL}}}


def _protocol(protocol: Protocol) -> Resource:
    found: Resource = {}
    if protocol in (Protocol.H2C, Protocol.H2):
        options = "extensions.upstreams.http.v3.HttpProtocolOptions"
        explicit: Resource = {"explicit_http_config": {"http2_protocol_options": {}}}
        extension = typed("", options, **explicit)["typed_config"]
        found["typed_extension_protocol_options"] = {f"envoy.{options}": extension}
    if protocol in (Protocol.HTTPS, Protocol.H2):
        # Certificates of backends are not looked at, as ingress-nginx does by default.
        context = "extensions.transport_sockets.tls.v3.UpstreamTlsContext"
        alpn = {"common_tls_context": {"alpn_protocols": ["h2"]}} if protocol is Protocol.H2 else {}
        found["transport_socket"] = typed("envoy.transport_sockets.tls", context, **alpn)
    return found
