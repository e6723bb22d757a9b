"""The verbs of the API on collections, objects and subresources: HTTP on one side, the registry on the other."""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_right
from typing import Any, NamedTuple

import orjson
from aiohttp import web

from kmn.apiserver import subresources
from kmn.apiserver.patch import change_of
from kmn.apiserver.registry import Registry
from kmn.apiserver.represent import Representation
from kmn.apiserver.request import Target, accepted_form, decode_body, media_type, not_served
from kmn.apiserver.store import Collection, Record
from kmn.apiserver.watch import Matches, WatchOptions, stream
from kmn.k8s.client import PatchType
from kmn.k8s.errors import ApiError, NotFound, Reason
from kmn.k8s.objects import Object, labels
from kmn.k8s.resources import PODS, Resource, by_kind
from kmn.k8s.selectors import parse_fields, parse_labels

__all__ = ["Handlers"]

_PATCH_TYPES: dict[str, PatchType] = {
    "application/merge-patch+json": "merge",
    "application/strategic-merge-patch+json": "strategic",
    "application/json-patch+json": "json",
}
_APPLY = "application/apply-patch+yaml"
_APPLY_NOTE = (
    "kmn merges an applied configuration into the object without tracking who owns which field: "
    "a field left out of a later apply stays"
)
_UNKNOWN_FIELD = ("unknown field", "duplicate field")


class _Write(NamedTuple):
    """How a write was asked for."""

    dry_run: bool
    strict: bool
    quiet: bool  # fieldValidation=Ignore: do not even warn of unknown fields

    @classmethod
    def of(cls, query: Any) -> _Write:
        validation = query.get("fieldValidation", "Warn")
        if validation not in ("Strict", "Warn", "Ignore"):
            raise ApiError(400, Reason.BAD_REQUEST, f"fieldValidation: {validation!r} is none of Strict, Warn, Ignore")
        return cls(_dry_run(query), validation == "Strict", validation == "Ignore")


def _dry_run(query: Any) -> bool:
    value = query.get("dryRun", "")
    if value not in ("", "All"):
        raise ApiError(400, Reason.BAD_REQUEST, f"dryRun: {value!r} is not All")
    return bool(value)


# What kubectl asks for and has to be had elsewhere for the time being.
_STREAMS = {
    "exec": "use `kmn exec POD -- COMMAND`",
    "attach": "use `kmn exec -it POD -- COMMAND`",
    "portforward": "use `kmn exec POD -- COMMAND` to reach a pod from inside the cluster",
    "log": "emulated containers write no logs; `kmn exec POD -- COMMAND` runs a program in the pod's network",
}


class Handlers:
    """One method a verb. All raise ApiError; writes are those of a user, not trusted."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._store = registry.store

    async def serve(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        """Answer one request on a resource."""
        if target.name is None:
            match request.method:
                case "GET":
                    if request.query.get("watch") in ("1", "true"):
                        return await self._watch(request, target)
                    return self._list(request, target)
                case "POST":
                    return await self._create(request, target)
                case "DELETE":
                    return await self._delete_collection(request, target)
        elif target.subresource is None:
            match request.method:
                case "GET":
                    if request.query.get("watch") in ("1", "true"):
                        return await self._watch(request, target)
                    return self._get(request, target)
                case "PUT":
                    return await self._update(request, target)
                case "PATCH":
                    return await self._patch(request, target)
                case "DELETE":
                    return await self._delete(request, target)
        else:
            return await self._subresource(request, target)
        raise _method_not_allowed(request)

    async def _subresource(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        resource, name = target.resource, target.subresource
        if name == "status" and resource.status:
            match request.method:
                case "GET":
                    return self._get(request, target)
                case "PUT":
                    return await self._update(request, target)
                case "PATCH":
                    return await self._patch(request, target)
        elif name == "scale" and resource.scale:
            return await self._scale(request, target)
        elif resource is PODS and name in ("binding", "eviction"):
            if request.method == "POST":
                return await self._post_to_pod(request, target)
        elif resource is PODS and name in _STREAMS:
            raise ApiError(404, Reason.NOT_FOUND, f"pods/{name} is not served yet: {_STREAMS[name]}")
        else:
            raise not_served(request.path)
        raise _method_not_allowed(request)

    # Reading.

    def _get(self, request: web.BaseRequest, target: Target) -> web.Response:
        represent = _representation(request, target)
        assert target.name is not None
        record = self._registry.record(target.resource, target.namespace or "", target.name)
        return _answer(represent, represent.one(record.object))

    def _list(self, request: web.BaseRequest, target: Target) -> web.Response:
        represent = _representation(request, target)
        collection = self._store.collections[target.resource]
        records = collection.records(target.namespace)
        metadata: dict[str, Any] = {"resourceVersion": str(collection.version)}
        if token := request.query.get("continue"):
            start, metadata["resourceVersion"] = _continue(token)
            records = records[bisect_right(records, start, key=_position) :]
        matches = _selection(request, target)
        if matches is not None:
            records = [record for record in records if matches(record)]
        limit = _number(request, "limit") or 0
        if 0 < limit < len(records):
            metadata["remainingItemCount"] = len(records) - limit
            records = records[:limit]
            metadata["continue"] = _token(records[-1], metadata["resourceVersion"])
        return _answer(represent, represent.many(records, metadata))

    async def _watch(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        query = request.query
        collection = self._store.collections[target.resource]
        text = query.get("resourceVersion", "")
        initial = query.get("sendInitialEvents") == "true"
        version = None if text in ("", "0") or initial else _version(text, collection, self._store.version)
        options = WatchOptions(
            version,
            bookmarks=query.get("allowWatchBookmarks") in ("1", "true"),
            initial_events=initial,
            timeout=_number(request, "timeoutSeconds"),
        )
        return await stream(request, collection, options, _representation(request, target), _selection(request, target))

    # Writing.

    async def _create(self, request: web.BaseRequest, target: Target) -> web.Response:
        represent, write = _representation(request, target), _Write.of(request.query)
        obj = _addressed(await _body(request), target)
        reply = self._registry.create(obj, trusted=False, strict=write.strict, dry_run=write.dry_run)
        return _answer(represent, represent.one(reply.object), 201, _audible(reply.warnings, write))

    async def _update(self, request: web.BaseRequest, target: Target) -> web.Response:
        represent, write = _representation(request, target), _Write.of(request.query)
        obj = _addressed(await _body(request), target)
        reply = self._registry.update(
            obj,
            subresource="status" if target.subresource else None,
            trusted=False,
            strict=write.strict,
            dry_run=write.dry_run,
        )
        return _answer(represent, represent.one(reply.object), 200, _audible(reply.warnings, write))

    async def _patch(self, request: web.BaseRequest, target: Target) -> web.Response:
        represent, write = _representation(request, target), _Write.of(request.query)
        kind = media_type(request.headers.get("Content-Type", ""))
        patch = await _body(request, (*_PATCH_TYPES, _APPLY))
        assert target.name is not None
        code, warnings = 200, []
        if kind == _APPLY:
            warnings.append(_APPLY_NOTE)
            if self._store.collections[target.resource].get(target.namespace or "", target.name) is None:
                obj = _addressed(patch, target)
                reply = self._registry.create(obj, trusted=False, strict=write.strict, dry_run=write.dry_run)
                warnings += _audible(reply.warnings, write)
                return _answer(represent, represent.one(reply.object), 201, warnings)
            patch = _addressed(patch, target)
        patch_type = _PATCH_TYPES.get(kind, "merge" if target.resource.custom else "strategic")
        reply = self._registry.patch(
            target.resource,
            target.namespace or "",
            target.name,
            change_of(patch, patch_type),
            subresource="status" if target.subresource else None,
            trusted=False,
            strict=write.strict,
            dry_run=write.dry_run,
        )
        warnings += _audible(reply.warnings, write)
        return _answer(represent, represent.one(reply.object), code, warnings)

    async def _delete(self, request: web.BaseRequest, target: Target) -> web.Response:
        represent = _representation(request, target)
        options = subresources.delete_options(
            await _body(request), dict(request.query), dry_run=_dry_run(request.query)
        )
        assert target.name is not None
        deleted = self._registry.delete(target.resource, target.namespace or "", target.name, options)
        if not deleted.gone:
            return _answer(represent, represent.one(deleted.object))
        details = {"name": target.name, "kind": target.resource.plural, "uid": deleted.object["metadata"]["uid"]}
        if target.resource.group:
            details["group"] = target.resource.group
        return _answer(represent, represent.plain(_success(details)))

    async def _delete_collection(self, request: web.BaseRequest, target: Target) -> web.Response:
        represent = _representation(request, target)
        options = subresources.delete_options(
            await _body(request), dict(request.query), dry_run=_dry_run(request.query)
        )
        collection = self._store.collections[target.resource]
        matches = _selection(request, target)
        doomed = [record for record in collection.records(target.namespace) if matches is None or matches(record)]
        for record in doomed:
            meta = record.object["metadata"]
            try:
                self._registry.delete(target.resource, meta.get("namespace", ""), meta["name"], options)
            except NotFound:
                pass  # went with another one
        return _answer(represent, represent.many(doomed, {"resourceVersion": str(collection.version)}))

    async def _scale(self, request: web.BaseRequest, target: Target) -> web.Response:
        represent, write = _representation(request, target), _Write.of(request.query)
        namespace, name = target.namespace or "", target.name or ""
        scale = subresources.scale_of(self._registry.record(target.resource, namespace, name).object)
        match request.method:
            case "GET":
                return _answer(represent, represent.plain(scale))
            case "PUT":
                scale = await _body(request)
            case "PATCH":
                kind = _PATCH_TYPES.get(media_type(request.headers.get("Content-Type", "")), "merge")
                scale = change_of(await _body(request, (*_PATCH_TYPES, _APPLY)), kind)(scale)
            case _:
                raise _method_not_allowed(request)
        reply = subresources.set_scale(self._registry, target.resource, namespace, name, scale, dry_run=write.dry_run)
        return _answer(represent, represent.plain(reply.object), 200, reply.warnings)

    async def _post_to_pod(self, request: web.BaseRequest, target: Target) -> web.Response:
        represent = _representation(request, target)
        act = subresources.bind if target.subresource == "binding" else subresources.evict
        body = await _body(request)
        act(self._registry, target.namespace or "", target.name or "", body, dry_run=_dry_run(request.query))
        return _answer(represent, represent.plain(_success(None)), 201)


def _representation(request: web.BaseRequest, target: Target) -> Representation:
    form = accepted_form(request.headers.get("Accept", ""))
    return Representation(target.asked, form, request.query.get("includeObject", "Metadata"))


def _answer(represent: Representation, body: bytes, code: int = 200, warnings: list[str] | None = None) -> web.Response:
    response = web.Response(body=body, status=code, headers={"Content-Type": represent.content_type})
    for warning in warnings or ():
        text = warning.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ").replace("\r", " ")
        response.headers.add("Warning", f'299 - "{text}"')
    return response


def _audible(warnings: list[str], write: _Write) -> list[str]:
    return [w for w in warnings if not any(word in w for word in _UNKNOWN_FIELD)] if write.quiet else warnings


async def _body(request: web.BaseRequest, json_types: tuple[str, ...] = ()) -> Any:
    data = await request.read()
    if not data:
        return None
    return decode_body(data, request.headers.get("Content-Type", ""), json_types=json_types)


def _addressed(obj: Any, target: Target) -> Object:
    """A body as the object that the path speaks of, in any of its versions. Raises ApiError (400) when they contradict
    each other."""
    resource = target.asked
    if not isinstance(obj, dict):
        raise ApiError(400, Reason.BAD_REQUEST, f"the body of the request is not a {resource.kind} object")
    given = (obj.get("apiVersion", resource.api_version), obj.get("kind", resource.kind))
    if given != (resource.api_version, resource.kind) and _served(*given) is not target.resource:
        raise ApiError(
            400,
            Reason.BAD_REQUEST,
            f"the object is a {given[1]} of {given[0]}, the path takes a {resource.kind} of {resource.api_version}",
        )
    obj["apiVersion"], obj["kind"] = given
    meta = obj.get("metadata")
    if not isinstance(meta, dict):
        meta = obj["metadata"] = {}
    for field, wanted in (("namespace", target.namespace), ("name", target.name)):
        if wanted is None or (field == "namespace" and not resource.namespaced):
            continue
        if meta.get(field) not in (None, "", wanted):
            raise ApiError(
                400,
                Reason.BAD_REQUEST,
                f"metadata.{field}: {meta[field]!r} does not match {wanted!r} in the path of the request",
            )
        meta[field] = wanted
    return obj


def _served(api_version: Any, kind: Any) -> Resource | None:
    try:
        return by_kind(api_version, kind)
    except (ApiError, TypeError):
        return None


def _selection(request: web.BaseRequest, target: Target) -> Matches | None:
    """What namespace, name and selectors of a request leave, None for everything."""
    query, namespace, name = request.query, target.namespace, target.name
    by_label = parse_labels(query["labelSelector"]) if query.get("labelSelector") else None
    by_field = parse_fields(query["fieldSelector"], target.resource.kind) if query.get("fieldSelector") else None
    if namespace is None and name is None and by_label is None and by_field is None:
        return None

    def matches(record: Record) -> bool:
        obj = record.object
        meta = obj["metadata"]
        return (
            (namespace is None or meta.get("namespace") == namespace)
            and (name is None or meta["name"] == name)
            and (by_label is None or by_label.matches(labels(obj)))
            and (by_field is None or by_field.matches(obj))
        )

    return matches


def _number(request: web.BaseRequest, name: str) -> int | None:
    text = request.query.get(name, "")
    if not text:
        return None
    if not text.isdecimal():
        raise ApiError(400, Reason.BAD_REQUEST, f"{name}: {text!r} is not a whole number of at least 0")
    return int(text)


def _version(text: str, collection: Collection, newest: int) -> int:
    if not text.isdecimal():
        raise ApiError(400, Reason.BAD_REQUEST, f"resourceVersion: {text!r} is not one that this server gave out")
    if int(text) > newest:  # from another life of this cluster: nothing can follow on it
        raise ApiError(410, Reason.EXPIRED, f"resource version {text} is from another cluster ({newest} is the newest)")
    return int(text)


def _position(record: Record) -> tuple[str, str]:
    meta = record.object["metadata"]
    return meta.get("namespace", ""), meta["name"]


def _token(last: Record, version: str) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([version, *_position(last)])).decode()


def _continue(token: str) -> tuple[tuple[str, str], str]:
    """Where the last page of a list ended, and the version of its first."""
    try:
        version, namespace, name = orjson.loads(base64.urlsafe_b64decode(token))
    except (ValueError, binascii.Error):
        raise ApiError(400, Reason.BAD_REQUEST, f"continue: {token!r} is not one that this server gave out") from None
    return (namespace, name), version


def _success(details: dict[str, Any] | None) -> dict[str, Any]:
    body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    return {**body, "details": details} if details else body


def _method_not_allowed(request: web.BaseRequest) -> ApiError:
    message = f"the server does not allow this method on the requested resource: {request.method} {request.path}"
    return ApiError(405, Reason.METHOD_NOT_ALLOWED, message)
