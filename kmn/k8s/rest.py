"""The API over HTTPS, for every process but the cluster's own: requests, and watches that another thread can close."""

from __future__ import annotations

import base64
import builtins
import os
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode

import orjson
import urllib3
import yaml

from kmn.k8s.client import Listing, PatchType, WatchEvent
from kmn.k8s.errors import ApiError, Reason
from kmn.k8s.objects import Object, resource_of
from kmn.k8s.resources import Resource

__all__ = ["Credentials", "RestClient", "Watch"]

_CONNECT_TIMEOUT = 5.0
_READ_TIMEOUT = 60.0
_WATCH_SILENCE = 60.0  # the server sends a bookmark well before: silence means that it is gone
_CONNECTIONS = 32
# A connection that the server closed while it was idle is opened again; a write that may have arrived is not repeated.
_RETRY = urllib3.Retry(total=2, redirect=0, status=0, other=0, backoff_factor=0.02, allowed_methods={"GET"})
_CONTENT_TYPES: dict[PatchType, str] = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
}
# As kubectl asks: a field that the API does not know is an error, not a warning.
_STRICT = {"fieldValidation": "Strict"}


@dataclass(frozen=True, slots=True)
class Credentials:
    """Where an API server is, how to know it, and how to be known by it. PEM texts."""

    url: str
    ca: str | None = None
    token: str | None = None
    certificate: str | None = None
    key: str | None = None

    @classmethod
    def from_kubeconfig(cls, path: str | os.PathLike[str]) -> Credentials:
        """The current context of a kubeconfig. Raises ValueError naming file and field."""
        folder = Path(path).parent
        config = yaml.safe_load(Path(path).read_text())
        if not isinstance(config, dict):
            raise ValueError(f"{path}: not a kubeconfig: a mapping is expected")
        context = _named(path, config, "contexts", config.get("current-context"))["context"]
        cluster = _named(path, config, "clusters", context.get("cluster"))["cluster"]
        user = _named(path, config, "users", context.get("user"))["user"]
        return cls(
            cluster["server"],
            _inline(cluster, "certificate-authority", folder),
            user.get("token"),
            _inline(user, "client-certificate", folder),
            _inline(user, "client-key", folder),
        )

    def context(self) -> ssl.SSLContext:
        """TLS as the credentials say; the system's authorities when they name none."""
        context = ssl.create_default_context(cadata=self.ca)
        if self.certificate and self.key and not self.token:
            with tempfile.NamedTemporaryFile("w") as file:  # OpenSSL reads the pair from a file only; mode 0600
                file.write(self.certificate + "\n" + self.key)
                file.flush()
                context.load_cert_chain(file.name)
        return context


def _named(path: object, config: Mapping[str, Any], section: str, name: str | None) -> Mapping[str, Any]:
    for entry in config.get(section) or ():
        if entry.get("name") == name:
            return entry  # type: ignore[no-any-return]
    raise ValueError(f"{path}: {section}: no entry named {name!r}")


def _inline(section: Mapping[str, Any], name: str, folder: Path) -> str | None:
    if data := section.get(f"{name}-data"):
        return base64.b64decode(data).decode()
    return (folder / section[name]).read_text() if section.get(name) else None


class RestClient:
    """Implements :class:`kmn.k8s.client.Client`; may be used by several threads at once.

    Unknown fields in what is written are errors. ``on_warning`` is called with each warning that the server attaches to
    an answer.
    """

    def __init__(self, credentials: Credentials, *, on_warning: Callable[[str], None] | None = None) -> None:
        self.url = credentials.url.rstrip("/")
        self._headers = {"Accept": "application/json", "User-Agent": "kmn"}
        if credentials.token:
            self._headers["Authorization"] = f"Bearer {credentials.token}"
        self._pool = urllib3.PoolManager(maxsize=_CONNECTIONS, ssl_context=credentials.context())
        self._on_warning = on_warning

    @classmethod
    def from_kubeconfig(
        cls, path: str | os.PathLike[str], *, on_warning: Callable[[str], None] | None = None
    ) -> RestClient:
        """A client for the current context of a kubeconfig."""
        return cls(Credentials.from_kubeconfig(path), on_warning=on_warning)

    def close(self) -> None:
        """Close idle connections."""
        self._pool.clear()

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> Any:
        """One request, decoded. Raises ApiError, also (503) when the server cannot be reached."""
        response = self._send(
            method, path, query, body, content_type, read_timeout=_READ_TIMEOUT, stream=False, accept=accept
        )
        if self._on_warning is not None:
            for warning in response.headers.getlist("Warning"):
                self._on_warning(_warning_text(warning))
        if response.status >= 400:
            raise _error(response.status, response.data)
        return orjson.loads(response.data) if response.data else None

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Any,
        content_type: str,
        *,
        read_timeout: float | None,
        stream: bool,
        accept: str = "application/json",
    ) -> urllib3.BaseHTTPResponse:
        headers = {**self._headers, "Accept": accept}
        if body is not None:
            headers["Content-Type"] = content_type
        url = f"{self.url}{path}?{urlencode(query)}" if query else f"{self.url}{path}"
        try:
            return self._pool.request(
                method,
                url,
                body=None if body is None else orjson.dumps(body),
                headers=headers,
                timeout=urllib3.Timeout(connect=_CONNECT_TIMEOUT, read=read_timeout),
                retries=_RETRY,
                preload_content=not stream,
            )
        except urllib3.exceptions.HTTPError as error:
            raise ApiError(
                503, "ServiceUnavailable", f"the API server at {self.url} cannot be reached: {_cause(error)}"
            ) from error

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """One object. Raises NotFound."""
        return self.request("GET", resource.path(namespace, name))  # type: ignore[no-any-return]

    def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> Listing:
        """Objects of one namespace, or of all."""
        query = {}
        if label_selector:
            query["labelSelector"] = label_selector
        if field_selector:
            query["fieldSelector"] = field_selector
        answer = self.request("GET", resource.path(namespace), query=query)
        return Listing(answer["items"], answer["metadata"]["resourceVersion"])

    def create(self, obj: Object) -> Object:
        """Create and return the stored object."""
        path = resource_of(obj).path(_namespace(obj))
        return self.request("POST", path, query=_STRICT, body=obj)  # type: ignore[no-any-return]

    def update(self, obj: Object, *, subresource: Literal["status"] | None = None) -> Object:
        """Replace an object, or its status."""
        path = resource_of(obj).path(_namespace(obj), obj["metadata"]["name"], subresource)
        return self.request("PUT", path, query=_STRICT, body=obj)  # type: ignore[no-any-return]

    def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        patch: Any,
        *,
        patch_type: PatchType = "merge",
        subresource: Literal["status"] | None = None,
    ) -> Object:
        """Change fields of the current object."""
        path = resource.path(namespace, name, subresource)
        content_type = _CONTENT_TYPES[patch_type]
        return self.request("PATCH", path, query=_STRICT, body=patch, content_type=content_type)  # type: ignore[no-any-return]

    def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        *,
        grace_seconds: int | None = None,
        propagation: Literal["Background", "Foreground", "Orphan"] = "Background",
        uid: str | None = None,
    ) -> None:
        """Delete, or mark for deletion what has to end first."""
        options: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        self.request("DELETE", resource.path(namespace, name), body=options)

    def watch(
        self,
        resource: Resource,
        resource_version: str,
        *,
        namespace: str | None = None,
        timeout: float | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> Watch:
        """Changes after ``resource_version``, bookmarks included, until the server ends it (``timeout`` seconds).

        Raises ApiError (410) here or while iterating when the version is too old: list again.
        """
        query = {"watch": "1", "resourceVersion": resource_version, "allowWatchBookmarks": "true"}
        if timeout is not None:
            query["timeoutSeconds"] = str(max(1, round(timeout)))
        if label_selector:
            query["labelSelector"] = label_selector
        if field_selector:
            query["fieldSelector"] = field_selector
        path = resource.path(namespace)
        response = self._send("GET", path, query, None, "", read_timeout=_WATCH_SILENCE, stream=True)
        if response.status >= 400:
            raise _error(response.status, response.read())
        return Watch(response)


class Watch(Iterator[WatchEvent]):
    """An open watch. ``close`` may be called from any thread, and ends the iteration."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response
        self._events = self._read()
        self._closed = threading.Event()
        self._reading = threading.Lock()  # held while a thread waits for the next event

    def __next__(self) -> WatchEvent:
        with self._reading:
            if self._closed.is_set():
                raise StopIteration
            try:
                return next(self._events)
            finally:
                if self._closed.is_set():
                    self._response.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading, also in a thread that is waiting for the next event now."""
        self._closed.set()
        try:
            self._response.shutdown()  # wakes the reader; closing alone would not
        except (OSError, ValueError, RuntimeError):
            pass  # already at its end
        if self._reading.acquire(blocking=False):  # nobody else will
            self._response.close()
            self._reading.release()

    def _read(self) -> Iterator[WatchEvent]:
        rest = b""
        try:
            for chunk in self._response.stream(None):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line:
                        yield _event(line)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            if not self._closed.is_set():
                raise ApiError(503, "ServiceUnavailable", f"the watch was cut off: {error}") from error
        finally:
            self._response.close()


def _event(line: bytes) -> WatchEvent:
    event = orjson.loads(line)
    if event["type"] == "ERROR":
        status = event["object"]
        raise ApiError.from_status(status, status.get("code", 500))
    return WatchEvent(event["type"], event["object"])


def _namespace(obj: Object) -> str:
    return obj["metadata"].get("namespace") or "default"


def _error(code: int, data: bytes) -> ApiError:
    try:
        status = orjson.loads(data)
        if isinstance(status, dict):
            return ApiError.from_status(status, code)
    except orjson.JSONDecodeError:
        pass
    return ApiError(code, Reason.INTERNAL_ERROR, data.decode(errors="replace").strip() or f"HTTP {code}")


def _cause(error: BaseException) -> str:
    """The system's own word for why a connection failed, without the layers around it."""
    inner = getattr(error, "reason", None) or error.__cause__ or error.__context__
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return _cause(inner) if isinstance(inner, BaseException) else str(error)


def _warning_text(header: str) -> str:
    """The text of ``299 - "text"``."""
    text: builtins.list[str] = header.split(" ", 2)
    return text[-1].strip('"').replace('\\"', '"').replace("\\\\", "\\")
