"""nginx as a plain reverse proxy: what an ingress controller's pod does without being one.

One process, connections to the backend kept, no access log, and the headers that backends are told of the client, as
kmn's Envoy has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import http

__all__ = ["proxying"]

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
_KEPT = 256  # connections to the backend: more than there are requests under way


@contextmanager
def proxying(netns: str, port: int, backend: str) -> Iterator[int]:
    """nginx in a namespace that hands every request on to ``backend`` (``ADDRESS:PORT``); its process."""
    headers = " ".join(f"proxy_set_header {name} {value};" for name, value in _HEADERS.items())
    location = f"proxy_pass http://backend; proxy_http_version 1.1; {headers}"
    upstream = f"upstream backend {{ server {backend}; keepalive {_KEPT}; keepalive_requests 1000000000; }}"
    with http.nginx(netns, [port], lambda folder: http.configuration([port], folder, location, upstream)) as pid:
        yield pid
