"""Listeners: an entrance of a routing is one; certificates and streams are chosen by the name that TLS asks for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from kmn.ingress.certificates import KeyPair
from kmn.ingress.envoy.accesslog import access_log, as_sent, stream_log
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


def listener(entrance: Entrance, certificates: Certificates) -> Resource:
    """Connections that nothing is there for are closed."""
    found = {"@type": kind("config.listener.v3.Listener"), **_listener(f"port-{entrance.port}", entrance.port)}
    if not entrance.tls:
        return {**found, "filter_chains": [{"filters": [_clear(entrance)]}]}
    chains = [_stream_chain(stream) for stream in entrance.streams]
    default = None
    if entrance.table is not None:
        default = None if entrance.strict else _https_chain("default", entrance.table, certificates.context(None))
        for each in entrance.certificates:
            if not entrance.strict and not certificates.has(each.secret):
                continue  # what the default chain does
            chain = _certificate_chain(each, entrance.table, certificates)
            if each.host == ANY_HOST:
                default = chain
            else:
                chains.append(chain)
    inspector = "extensions.filters.listener.tls_inspector.v3.TlsInspector"
    found["listener_filters"] = [typed("envoy.filters.listener.tls_inspector", inspector)]
    return {**found, "filter_chains": chains, **({"default_filter_chain": default} if default else {})}


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
        return _connection_manager(entrance.table)
    return _tcp_proxy([share for stream in entrance.streams for share in stream.shares], f"port-{entrance.port}")


def _connection_manager(table: str) -> Resource:
    return _http_filter(
        table,
        as_sent(),
        access_log=access_log(),
        rds={"config_source": file_source(route_file(table)), "route_config_name": table},
        use_remote_address=True,
        server_header_transformation="PASS_THROUGH",
        upgrade_configs=[{"upgrade_type": "websocket"}],
        strip_trailing_host_dot=True,
        http_protocol_options={"accept_http_10": True},
        common_http_protocol_options={"idle_timeout": _KEEP_ALIVE},
    )


def _http_filter(statistics: str, *before: Resource, **fields: Any) -> Resource:
    message = "extensions.filters.http.router.v3.Router"
    router = typed("envoy.filters.http.router", message, suppress_envoy_headers=True)
    manager = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    own = {"stat_prefix": statistics, "http_filters": [*before, router]}
    return typed("envoy.filters.network.http_connection_manager", manager, **own, **fields)


def _tcp_proxy(shares: Iterable[Share], statistics: str) -> Resource:
    weighted = [{"name": str(share.upstream or NOWHERE), "weight": share.weight} for share in shares if share.weight]
    target = {"weighted_clusters": {"clusters": weighted}} if weighted else {"cluster": NOWHERE}
    message = "extensions.filters.network.tcp_proxy.v3.TcpProxy"
    return typed("envoy.filters.network.tcp_proxy", message, stat_prefix=statistics, access_log=stream_log(), **target)


def _stream_chain(stream: Stream) -> Resource:
    name = f"{stream.owner} {stream.field}"
    return {
        "name": name,
        "filter_chain_match": {"server_names": list(stream.hosts)},
        "filters": [_tcp_proxy(stream.shares, "streams")],
    }


def _certificate_chain(certificate: Certificate, table: str, certificates: Certificates) -> Resource:
    host = certificate.host
    match = {"filter_chain_match": {"server_names": [host]}} if host != ANY_HOST else {}
    return {**_https_chain(host or "any", table, certificates.context(certificate.secret)), **match}


def _https_chain(name: str, table: str, certificate: Resource) -> Resource:
    message = "extensions.transport_sockets.tls.v3.DownstreamTlsContext"
    context = {"alpn_protocols": ["h2", "http/1.1"], **certificate}
    return {
        "name": name,
        "transport_socket": typed("envoy.transport_sockets.tls", message, common_tls_context=context),
        "filters": [_connection_manager(table)],
    }


# --- certificates -----------------------------------------------------------------------------------------------


def _secret(name: str, pair: KeyPair) -> Resource:
    message = kind("extensions.transport_sockets.tls.v3.Secret")
    return {"@type": message, "name": name, "tls_certificate": _pem(pair)}


def _pem(pair: KeyPair) -> Resource:
    return {"certificate_chain": {"inline_string": pair.certificate}, "private_key": {"inline_string": pair.key}}


def _secret_file(name: str) -> str:
    """A Secret's own name may be too long for a file."""
    return f"secret-{hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()[:16]}.json"
