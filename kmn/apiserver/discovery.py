"""What the server tells about itself: version, groups, resources, and an OpenAPI outline.

Computed once from the table of resources. The OpenAPI documents name paths, kinds and query parameters, which is what
``kubectl`` looks for to leave validation to the server; they carry no schemas of the types.
"""

from __future__ import annotations

import platform
from functools import cache
from typing import Any

from kmn.k8s.resources import PODS, SERVED, Resource

__all__ = [
    "AGGREGATED",
    "GIT_VERSION",
    "OPENAPI_V2_ACCEPTED",
    "OPENAPI_V2_PROTOBUF",
    "aggregated",
    "api_group",
    "api_groups",
    "api_resources",
    "openapi_v2",
    "openapi_v2_protobuf",
    "openapi_v3",
    "openapi_v3_index",
    "version_info",
]

GIT_VERSION = "v1.33.0+kmn"
# What kubectl accepts, which is no valid media type ("@"), and what upstream answers for that reason.
OPENAPI_V2_ACCEPTED = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
OPENAPI_V2_PROTOBUF = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
_SUBRESOURCE_VERBS = ["get", "patch", "update"]


def version_info() -> dict[str, str]:
    """``/version``."""
    major, minor = GIT_VERSION[1:].split(".")[:2]
    return {
        "major": major,
        "minor": minor,
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": platform.python_implementation(),
        "platform": f"{platform.system().lower()}/{platform.machine()}",
    }


@cache
def _groups() -> dict[str, dict[str, list[Resource]]]:
    """Group → version → resources, in the table's order: the first version is the preferred one."""
    groups: dict[str, dict[str, list[Resource]]] = {}
    for resource in SERVED:
        groups.setdefault(resource.group, {}).setdefault(resource.version, []).append(resource)
    return groups


def _subresources(resource: Resource) -> list[tuple[str, str, str, str, list[str]]]:
    """(name, group, version, kind, verbs) of each."""
    found = []
    if resource.status:
        found.append(("status", resource.group, resource.version, resource.kind, _SUBRESOURCE_VERBS))
    if resource.scale:
        found.append(("scale", "autoscaling", "v1", "Scale", _SUBRESOURCE_VERBS))
    if resource is PODS:
        found.append(("binding", "", "v1", "Binding", ["create"]))
        found.append(("eviction", "policy", "v1", "Eviction", ["create"]))
    return found


def api_groups() -> dict[str, Any]:
    """``/apis``."""
    groups = []
    for name, versions in _groups().items():
        if name:
            listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
            groups.append({"name": name, "versions": listed, "preferredVersion": listed[0]})
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def api_group(name: str) -> dict[str, Any] | None:
    """``/apis/GROUP``."""
    for group in api_groups()["groups"]:
        if group["name"] == name:
            return {"kind": "APIGroup", "apiVersion": "v1", **group}
    return None


def api_resources(group: str, version: str) -> dict[str, Any] | None:
    """``/api/v1`` and ``/apis/GROUP/VERSION``."""
    resources = _groups().get(group, {}).get(version)
    if resources is None:
        return None
    listed: list[dict[str, Any]] = []
    for resource in resources:
        entry: dict[str, Any] = {
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": _VERBS,
        }
        if resource.short:
            entry["shortNames"] = list(resource.short)
        if resource.categories:
            entry["categories"] = list(resource.categories)
        listed.append(entry)
        for name, of_group, of_version, kind, verbs in _subresources(resource):
            listed.append(
                {
                    "name": f"{resource.plural}/{name}",
                    "singularName": "",
                    "namespaced": resource.namespaced,
                    "kind": kind,
                    "group": of_group,
                    "version": of_version,
                    "verbs": verbs,
                }
            )
    group_version = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": listed}


def aggregated(*, core: bool) -> dict[str, Any]:
    """``/api`` (core) or ``/apis`` in one document: ``apidiscovery.k8s.io/v2``."""
    items = [
        {
            "metadata": {"name": group},
            "versions": [
                {
                    "version": version,
                    "freshness": "Current",
                    "resources": [_aggregated_resource(resource) for resource in resources],
                }
                for version, resources in versions.items()
            ],
        }
        for group, versions in _groups().items()
        if (group == "") is core
    ]
    return {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}


def _aggregated_resource(resource: Resource) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "resource": resource.plural,
        "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": _VERBS,
    }
    if resource.short:
        entry["shortNames"] = list(resource.short)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    if subresources := _subresources(resource):
        entry["subresources"] = [
            {"subresource": name, "responseKind": {"group": group, "version": version, "kind": kind}, "verbs": verbs}
            for name, group, version, kind, verbs in subresources
        ]
    return entry


def openapi_v2() -> dict[str, Any]:
    """``/openapi/v2``: that the server speaks Swagger 2.0, and nothing about types."""
    return {
        "swagger": "2.0",
        "info": {"title": "Kubernetes (kmn)", "version": GIT_VERSION},
        "paths": {},
        "definitions": {},
    }


def openapi_v2_protobuf() -> bytes:
    """The same document in the form that ``kubectl`` asks for: messages Document and Info of gnostic's OpenAPIv2."""

    def field(number: int, value: bytes) -> bytes:
        return bytes((number << 3 | 2, len(value))) + value  # all shorter than 128 bytes

    document = openapi_v2()
    info = field(1, document["info"]["title"].encode()) + field(2, document["info"]["version"].encode())
    return field(1, document["swagger"].encode()) + field(2, info) + field(8, b"")


def openapi_v3_index() -> dict[str, Any]:
    """``/openapi/v3``: where the documents of the groups are."""
    paths = {}
    for group, versions in _groups().items():
        for version in versions:
            path = f"apis/{group}/{version}" if group else f"api/{version}"
            paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={GIT_VERSION}"}
    return {"paths": paths}


def openapi_v3(group: str, version: str) -> dict[str, Any] | None:
    """``/openapi/v3/apis/GROUP/VERSION``."""
    resources = _groups().get(group, {}).get(version)
    if resources is None:
        return None
    paths: dict[str, Any] = {}
    for resource in resources:
        namespace = "{namespace}" if resource.namespaced else None
        paths[resource.path(namespace)] = _operations(resource, {"get": "list", "post": "post"})
        paths[resource.path(namespace, "{name}")] = _operations(
            resource, {"get": "get", "put": "put", "patch": "patch", "delete": "delete"}
        )
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes (kmn)", "version": GIT_VERSION},
        "paths": paths,
        "components": {"schemas": {}},
    }


def _operations(resource: Resource, actions: dict[str, str]) -> dict[str, Any]:
    kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    operations = {}
    for method, action in actions.items():
        names = ["dryRun", "fieldManager", "fieldValidation"] if method in ("post", "put", "patch") else []
        operations[method] = {
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": kind,
            "parameters": [{"name": name, "in": "query", "schema": {"type": "string"}} for name in names],
            "responses": {"200": {"description": "OK"}},
        }
    return operations
