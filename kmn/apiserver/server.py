"""The API over HTTPS: sockets, TLS, who may come in, and which part answers. The verbs are in ``handlers``."""

from __future__ import annotations

import asyncio
import hmac
import logging
import socket
from collections.abc import Callable
from typing import Any

import orjson
from aiohttp import web

from kmn.apiserver import discovery
from kmn.apiserver.handlers import Handlers
from kmn.apiserver.local import LocalClient
from kmn.apiserver.pki import Pki
from kmn.apiserver.request import not_served, parse_path
from kmn.k8s.errors import ApiError, Reason

__all__ = ["ApiServer"]

log = logging.getLogger(__name__)

_MAX_BODY = 16 * 1024 * 1024
_KEEP_ALIVE = 300.0
_PATIENCE = 1.0  # seconds for requests at work when the server stops
_OPEN = ("/healthz", "/livez", "/readyz", "/version")  # answered without credentials, as upstream


class ApiServer:
    """Serves a store. Lives in the asyncio loop that the store belongs to."""

    def __init__(self, client: LocalClient, pki: Pki) -> None:
        self._token = f"Bearer {pki.token}".encode()
        self._tls = pki.server_context()
        self._handlers = Handlers(client.registry)
        self._requests: set[asyncio.Task[Any]] = set()
        app = web.Application(client_max_size=_MAX_BODY)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,  # an idle watch ends when its client goes
            keepalive_timeout=_KEEP_ALIVE,
            shutdown_timeout=_PATIENCE,
        )

    async def start(self, sockets: list[socket.socket]) -> None:
        """Serve on listening sockets."""
        await self._runner.setup()
        for each in sockets:
            await self.add_socket(each)

    async def add_socket(self, listener: socket.socket) -> None:
        """Serve on one more socket, which may have been made in another network namespace."""
        listener.setblocking(False)
        await web.SockSite(self._runner, listener, ssl_context=self._tls, backlog=512).start()

    async def stop(self) -> None:
        """End watches, finish requests, close sockets."""
        requests = list(self._requests)
        for task in requests:
            task.cancel()
        if requests:
            await asyncio.wait(requests, timeout=_PATIENCE)
        if self._runner.server is not None:
            for connection in self._runner.server.connections:
                if connection.transport is not None:
                    connection.transport.abort()  # do not wait for idle clients to say goodbye in TLS
        await self._runner.cleanup()
        await asyncio.sleep(0)  # aborted transports close their sockets in the next turn of the loop

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        self._requests.add(task)
        try:
            return await self._route(request)
        except ApiError as error:
            return _failure(error)
        except web.HTTPException as error:  # aiohttp's own: a body too large, a malformed request
            return _failure(ApiError(error.status, error.reason.replace(" ", ""), error.text or error.reason))
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            log.exception("%s %s", request.method, request.path_qs)
            return _failure(ApiError(500, Reason.INTERNAL_ERROR, f"Internal error occurred: {error!r}"))
        finally:
            self._requests.discard(task)

    async def _route(self, request: web.Request) -> web.StreamResponse:
        path = request.path.rstrip("/") or "/"
        is_open = path.startswith(_OPEN)
        if not is_open and not self._is_known(request):
            raise ApiError(401, Reason.UNAUTHORIZED, "Unauthorized: a bearer token or client certificate is required")
        if request.method == "GET" and (answer := _about(path)) is not None:
            return answer(request)
        return await self._handlers.serve(request, parse_path(path))

    def _is_known(self, request: web.Request) -> bool:
        """By the bearer token, or by a certificate that TLS verified against the cluster's CA."""
        given = request.headers.get("Authorization")
        if given is not None:
            return hmac.compare_digest(given.encode(errors="surrogateescape"), self._token)
        transport = request.transport
        return bool(transport is not None and transport.get_extra_info("peercert"))


def _about(path: str) -> Callable[[web.Request], web.Response] | None:
    """What answers a path that is about the server rather than its objects."""
    match path.strip("/").split("/"):
        case ["healthz" | "livez" | "readyz", *_]:
            return lambda _: web.Response(text="ok")
        case ["version"]:
            return lambda _: _json(discovery.version_info())
        case [""]:
            return lambda _: _json({"paths": ["/api", "/api/v1", "/apis", "/healthz", "/openapi/v3", "/version"]})
        case ["api"]:
            return lambda request: _groups(request, core=True)
        case ["apis"]:
            return lambda request: _groups(request, core=False)
        case ["api", "v1"]:
            return lambda _: _document(path, discovery.api_resources("", "v1"))
        case ["apis", group]:
            return lambda _: _document(path, discovery.api_group(group))
        case ["apis", group, version]:
            return lambda _: _document(path, discovery.api_resources(group, version))
        case ["openapi", "v2"]:
            return _openapi_v2
        case ["openapi", "v3"]:
            return lambda _: _json(discovery.openapi_v3_index())
        case ["openapi", "v3", "api", "v1"]:
            return lambda _: _document(path, discovery.openapi_v3("", "v1"))
        case ["openapi", "v3", "apis", group, version]:
            return lambda _: _document(path, discovery.openapi_v3(group, version))
    return None


def _groups(request: web.Request, *, core: bool) -> web.Response:
    """Aggregated discovery for who asks for it, the older documents for others."""
    accept = request.headers.get("Accept", "").replace(" ", "")
    if "g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList" in accept:
        return _json(discovery.aggregated(core=core), discovery.AGGREGATED)
    if core:
        return _json({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
    return _json(discovery.api_groups())


def _openapi_v2(request: web.Request) -> web.Response:
    if discovery.OPENAPI_V2_ACCEPTED in request.headers.get("Accept", ""):
        body = discovery.openapi_v2_protobuf()
        return web.Response(body=body, headers={"Content-Type": discovery.OPENAPI_V2_PROTOBUF})
    return _json(discovery.openapi_v2())


def _document(path: str, document: dict[str, Any] | None) -> web.Response:
    if document is None:
        raise not_served(path)
    return _json(document)


def _json(body: Any, content_type: str = "application/json") -> web.Response:
    return web.Response(body=orjson.dumps(body), headers={"Content-Type": content_type})


def _failure(error: ApiError) -> web.Response:
    return web.Response(
        body=orjson.dumps(error.status()), status=error.code, headers={"Content-Type": "application/json"}
    )
