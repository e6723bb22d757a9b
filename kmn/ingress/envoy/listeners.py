"""Listeners: an entrance of a routing is one; certificates and streams are chosen by the name that TLS asks for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from kmn.ingress.certificates import KeyPair
from kmn.ingress.envoy.accesslog import access_log, stream_log
from kmn.ingress.envoy.filters import http_filters, upgraded_filters
from kmn.ingress.envoy.forms import Resource, address, file_source, kind, typed
from kmn.ingress.envoy.routes import NOWHERE
from kmn.ingress.model import ANY_HOST, Certificate, Entrance, Share, Stream
from kmn.k8s.objects import Key

__all__ = ["HEALTH_PORT", "Certificates", "health_listener", "listener", "route_file"]

HEALTH_PORT = 10254

_DEFAULT_CERTIFICATE = "default"
# A watched file costs Envoy an inotify instance, of which a user has 128 by default, for all processes. Certificates
# beyond these are part of the listener: connections that were made with one are drained when it changes.
_WATCHED_CERTIFICATES = 32
_KEEP_ALIVE = "75s"  # as ingress-nginx' keep-alive


def route_file(table: str) -> str:
    """The file that a table's route configuration is read from."""
    return f"routes-{table}.json"


class Certificates:
    """Where listeners have their certificates from. A Secret that is not there is stood in for by the default one."""

    def __init__(self, default: KeyPair, pairs: Mapping[Key, KeyPair]) -> None:
        self._pairs = {_DEFAULT_CERTIFICATE: default, **{str(secret): pair for secret, pair in pairs.items()}}
        self._watched = frozenset(list(self._pairs)[:_WATCHED_CERTIFICATES])

    def files(self) -> dict[str, Resource]:
        """Those that Envoy watches, by the name of their file."""
        return {_secret_file(name): _secret(name, pair) for name, pair in self._pairs.items() if name in self._watched}

    def context(self, secret: Key | None) -> Resource:
        """Fields of a TLS context: where its certificate is, or the certificate. None: the default one."""
        name = str(secret) if secret is not None and self.has(secret) else _DEFAULT_CERTIFICATE
        if name in self._watched:
            source = {"name": name, "sds_config": file_source(_secret_file(name))}
            return {"tls_certificate_sds_secret_configs": [source]}
        return {"tls_certificates": [_pem(self._pairs[name])]}

    def has(self, secret: Key) -> bool:
        """Whether its own certificate is shown for it."""
        return str(secret) in self._pairs


def listener(entrance: Entrance, certificates: Certificates, *, dual_stack: bool = False) -> Resource:
    """Connections that nothing is there for are closed."""
    found = {"@type": kind("config.listener.v3.Listener"), **_listener(f"port-{entrance.port}", entrance.port)}
    if dual_stack:  # where a pod has no IPv6, there may be no such socket at all
        found["additional_addresses"] = [{"address": address("::", entrance.port)}]
    inspectors = [_proxy_protocol()] if entrance.proxy_protocol else []
    if not entrance.tls:
        found |= {"listener_filters": inspectors} if inspectors else {}
        # What the access log calls connections that are passed on.
        name = {"name": entrance.streams[0].name} if entrance.table is None and entrance.streams else {}
        return {**found, "filter_chains": [{**name, "filters": [_clear(entrance)]}]}
    chains = [_stream_chain(stream, certificates) for stream in entrance.streams]
    default = None
    if entrance.table is not None:
        default = None if entrance.strict else _https_chain("default", entrance, certificates.context(None))
        for each in entrance.certificates:
            if not entrance.strict and not certificates.has(each.secret):
                continue  # what the default chain does
            chain = _certificate_chain(each, entrance, certificates)
            if each.host == ANY_HOST:
                default = chain
            else:
                chains.append(chain)
    message = "extensions.filters.listener.tls_inspector.v3.TlsInspector"
    found["listener_filters"] = [*inspectors, typed("envoy.filters.listener.tls_inspector", message)]
    return {**found, "filter_chains": chains, **({"default_filter_chain": default} if default else {})}


def _proxy_protocol() -> Resource:
    message = "extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"
    return typed("envoy.filters.listener.proxy_protocol", message, allow_requests_without_proxy_protocol=True)


def health_listener() -> Resource:
    """What the readiness probe asks."""
    answer = {"match": {"path": "/healthz"}, "direct_response": {"status": 200}}
    host = {"name": "health", "domains": ["*"], "routes": [answer]}
    manager = _http_filter(
        "health",
        route_config={"name": "health", "virtual_hosts": [host]},
        delayed_close_timeout="0s",  # a probe reads to the end of the connection
    )
    return {**_listener("health", HEALTH_PORT), "filter_chains": [{"filters": [manager]}]}


def _listener(name: str, port: int) -> Resource:
    return {
        "name": name,
        "address": address("0.0.0.0", port),
        # Nobody else may listen there beside: connections would be lost to it.
        "enable_reuse_port": False,
    }


# --- what connections become ------------------------------------------------------------------------------------


def _clear(entrance: Entrance) -> Resource:
    """The filter of a port without TLS."""
    if entrance.table is not None:
        return _connection_manager(entrance)
    return _tcp_proxy([share for stream in entrance.streams for share in stream.shares], f"port-{entrance.port}")


def _connection_manager(entrance: Entrance) -> Resource:
    table = entrance.table or ""
    trusted = {"xff_num_trusted_hops": entrance.trusted_hops} if entrance.trusted_hops else {}
    return _http_filter(
        table,
        access_log=access_log(),
        rds={"config_source": file_source(route_file(table)), "route_config_name": table},
        use_remote_address=True,
        server_header_transformation="PASS_THROUGH",
        upgrade_configs=[{"upgrade_type": "websocket", "filters": upgraded_filters()}],
        strip_trailing_host_dot=True,
        http_protocol_options={"accept_http_10": True},
        common_http_protocol_options={"idle_timeout": _KEEP_ALIVE},
        **trusted,
    )


def _http_filter(statistics: str, **fields: Any) -> Resource:
    manager = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    own = {"stat_prefix": statistics, "http_filters": http_filters()}
    return typed("envoy.filters.network.http_connection_manager", manager, **own, **fields)


def _tcp_proxy(shares: Iterable[Share], statistics: str) -> Resource:
    weighted = [{"name": str(share.upstream or NOWHERE), "weight": share.weight} for share in shares if share.weight]
    target = {"weighted_clusters": {"clusters": weighted}} if weighted else {"cluster": NOWHERE}
    message = "extensions.filters.network.tcp_proxy.v3.TcpProxy"
    return typed("envoy.filters.network.tcp_proxy", message, stat_prefix=statistics, access_log=stream_log(), **target)


def _stream_chain(stream: Stream, certificates: Certificates) -> Resource:
    found = {
        "name": stream.name,
        "filter_chain_match": {"server_names": list(stream.hosts)},
        "filters": [_tcp_proxy(stream.shares, "streams")],
    }
    if stream.certificate is not None:
        found["transport_socket"] = _tls(certificates.context(stream.certificate))
    return found


def _certificate_chain(certificate: Certificate, entrance: Entrance, certificates: Certificates) -> Resource:
    host = certificate.host
    match = {"filter_chain_match": {"server_names": [host]}} if host != ANY_HOST else {}
    return {**_https_chain(host or "any", entrance, certificates.context(certificate.secret)), **match}


def _https_chain(name: str, entrance: Entrance, certificate: Resource) -> Resource:
    context = {"alpn_protocols": ["h2", "http/1.1"], **certificate}
    return {"name": name, "transport_socket": _tls(context), "filters": [_connection_manager(entrance)]}


def _tls(context: Resource) -> Resource:
    message = "extensions.transport_sockets.tls.v3.DownstreamTlsContext"
    return typed("envoy.transport_sockets.tls", message, common_tls_context=context)


# --- certificates -----------------------------------------------------------------------------------------------


def _secret(name: str, pair: KeyPair) -> Resource:
    message = kind("extensions.transport_sockets.tls.v3.Secret")
    return {"@type": message, "name": name, "tls_certificate": _pem(pair)}


def _pem(pair: KeyPair) -> Resource:
    return {"certificate_chain": {"inline_string": pair.certificate}, "private_key": {"inline_string": pair.key}}


def _secret_file(name: str) -> str:
    """A Secret's own name may be too long for a file."""
    return f"secret-{hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()[:16]}.json"
