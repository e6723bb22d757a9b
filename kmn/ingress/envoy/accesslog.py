"""The access log: an object a line, for each request, and for each connection that is passed on as it is.

Envoy collects lines and writes them some times a second; a line costs it about as much as a header that it sets. Who
reads them: ``kmn.ingress.accesslog``. Bounds of the file: ``kmn.ingress.logfile``.
"""

from __future__ import annotations

from kmn.ingress.envoy.forms import Resource, typed

__all__ = ["ACCESS_LOG_FILE", "FLUSH_OPTIONS", "access_log", "as_sent", "stream_log"]

ACCESS_LOG_FILE = "access.log"
# Envoy's own are 10 s and 64 kB: too long for somebody who watches.
FLUSH_OPTIONS = ("--file-flush-interval-msec", "100")

_HOST, _PATH = "kmn.host", "kmn.path"  # filter state: what the client has asked for, before it is rewritten
_CONNECTION = {
    "time": "%START_TIME%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "port": "%DOWNSTREAM_LOCAL_PORT%",
    "tls": "%DOWNSTREAM_TLS_VERSION%",
    "received": "%BYTES_RECEIVED%",
    "sent": "%BYTES_SENT%",
    "cluster": "%UPSTREAM_CLUSTER_RAW%",
    "address": "%UPSTREAM_HOST%",
    "flags": "%RESPONSE_FLAGS%",
}
# Durations are in microseconds. ``connected`` is when the connection to the backend was begun: nothing for one that
# was there before the request.
_REQUEST = {
    **_CONNECTION,
    "method": "%REQ(:METHOD)%",
    "host": f"%FILTER_STATE({_HOST}:PLAIN)%",
    "path": f"%FILTER_STATE({_PATH}:PLAIN)%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "rule": "%ROUTE_NAME%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "total": "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
    "first": "%COMMON_DURATION(DS_RX_BEG:US_RX_BEG:us)%",
    "connect": "%COMMON_DURATION(US_CX_BEG:US_CX_END:us)%",
    "connected": "%COMMON_DURATION(DS_RX_BEG:US_CX_BEG:us)%",
    "details": "%RESPONSE_CODE_DETAILS%",
}
_STREAM = {
    **_CONNECTION,
    "host": "%REQUESTED_SERVER_NAME%",
    "rule": "%FILTER_CHAIN_NAME%",
    "duration": "%DURATION%",  # milliseconds
    "details": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
}


def access_log() -> list[Resource]:
    """Of requests, as they end."""
    return [_file(_REQUEST)]


def stream_log() -> list[Resource]:
    """Of connections that are passed on, as they end."""
    return [_file(_STREAM)]


def as_sent() -> Resource:
    """The HTTP filter that keeps host and path for the log: routes may rewrite both."""
    message = "extensions.filters.http.set_filter_state.v3.Config"
    kept = [_kept(_HOST, "%REQ(:AUTHORITY)%"), _kept(_PATH, "%REQ(:PATH)%")]
    return typed("envoy.filters.http.set_filter_state", message, on_request_headers=kept)


def _kept(key: str, value: str) -> Resource:
    form = {"text_format_source": {"inline_string": value}}
    return {"object_key": key, "factory_key": "envoy.string", "format_string": form}


def _file(fields: dict[str, str]) -> Resource:
    message = "extensions.access_loggers.file.v3.FileAccessLog"
    form = {"json_format": fields}
    return typed("envoy.access_loggers.file", message, path=f"./{ACCESS_LOG_FILE}", log_format=form)
