"""A REST request taken apart: what it is about, how its body is read, which form of answer the client accepts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import orjson
import yaml

from kmn.apiserver import protobuf
from kmn.k8s.errors import ApiError, Reason
from kmn.k8s.resources import Resource, by_path

__all__ = ["Form", "Target", "accepted_form", "decode_body", "media_type", "parse_path"]

Form = Literal["json", "yaml", "table", "metadata"]

_YAML = ("application/yaml", "application/x-yaml", "text/yaml")
_BODY_TYPES = ("application/json", *_YAML, "")


@dataclass(frozen=True, slots=True)
class Target:
    """A collection (``name`` is None), an object, or a subresource. ``namespace`` None: all namespaces.

    ``asked`` is the version of the resource that the path names; ``resource`` the one that is stored.
    """

    resource: Resource
    namespace: str | None
    name: str | None
    subresource: str | None
    asked: Resource


def not_served(path: str) -> ApiError:
    """404 as the API server words it for a path that it does not know."""
    return ApiError(404, Reason.NOT_FOUND, f"the server could not find the requested resource: {path} is not served")


def parse_path(path: str) -> Target:
    """``/apis/apps/v1/namespaces/default/deployments/web/scale``, taken apart. Raises ApiError (404)."""
    match path.strip("/").split("/"):
        case ["api", "v1", *rest]:
            group, version = "", "v1"
        case ["apis", group, version, *rest]:
            pass
        case _:
            raise not_served(path)
    namespace: str | None = None
    # /namespaces/NAME/PLURAL, unless it is a subresource of the Namespace itself.
    if len(rest) >= 3 and rest[0] == "namespaces" and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    resource = by_path(group, version, rest[0]) if rest else None
    if resource is None or len(rest) > 3 or (namespace is not None and not resource.namespaced):
        raise not_served(path)
    name = rest[1] if len(rest) > 1 else None
    if name is not None and resource.namespaced and namespace is None:
        raise not_served(path)
    return Target(resource.home, namespace, name, rest[2] if len(rest) > 2 else None, resource)


def media_type(header: str) -> str:
    """The type of a Content-Type header without its parameters."""
    return header.partition(";")[0].strip().lower()


def decode_body(data: bytes, content_type: str, *, json_types: tuple[str, ...] = ()) -> Any:
    """A body in JSON, YAML or protobuf. Raises ApiError: 415 for other types, 400 for nonsense."""
    kind = media_type(content_type)
    if kind == protobuf.MEDIA_TYPE:
        return protobuf.decode(data)
    if kind not in _BODY_TYPES and kind not in json_types:
        raise ApiError(
            415,
            Reason.UNSUPPORTED_MEDIA_TYPE,
            f"the body of the request was in an unsupported format ({kind}) - accepted media types include: "
            f"{', '.join(json_types or _BODY_TYPES[:2])}",
        )
    try:
        if kind in _YAML or kind == "application/apply-patch+yaml":
            return yaml.load(data, yaml.CSafeLoader)
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, Reason.BAD_REQUEST, f"the body of the request is not JSON: {error}") from None
    except yaml.YAMLError as error:
        raise ApiError(400, Reason.BAD_REQUEST, f"the body of the request is not YAML: {error}") from None


def accepted_form(header: str) -> Form:
    """The first form in an Accept header that kmn can answer in. Raises ApiError (406)."""
    for choice in (header or "*/*").split(","):
        kind, *rest = (part.strip() for part in choice.split(";"))
        parameters = dict(part.partition("=")[::2] for part in rest)
        shape = parameters.get("as")
        if kind in _YAML:
            return "yaml"
        if kind not in ("application/json", "*/*", "application/*"):
            continue
        if shape is None:
            return "json"
        if parameters.get("g") == "meta.k8s.io" and parameters.get("v", "v1") == "v1":
            if shape == "Table":
                return "table"
            if shape in ("PartialObjectMetadata", "PartialObjectMetadataList"):
                return "metadata"
    raise ApiError(
        406, Reason.NOT_ACCEPTABLE, "only the following media types are accepted: application/json, application/yaml"
    )
