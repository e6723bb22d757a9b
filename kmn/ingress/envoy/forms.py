"""Forms that recur in Envoy's configuration."""

from __future__ import annotations

from typing import Any, TypeAlias

__all__ = ["Resource", "address", "file_source", "kind", "seconds", "typed"]

Resource: TypeAlias = dict[str, Any]


def kind(name: str) -> str:
    """The type URL of a message of Envoy's API."""
    return f"type.googleapis.com/envoy.{name}"


def typed(name: str, message: str, **fields: Any) -> Resource:
    """An extension by name, with its configuration."""
    return {"name": name, "typed_config": {"@type": kind(message), **fields}}


def address(ip: str, port: int) -> Resource:
    """Of TCP."""
    return {"socket_address": {"address": ip, "port_value": port}}


def file_source(name: str) -> Resource:
    """Resources are read from a file in Envoy's working directory, and again when another one is renamed onto it."""
    return {"path_config_source": {"path": f"./{name}"}, "resource_api_version": "V3"}


def seconds(number: float) -> str:
    """A duration."""
    return f"{number:.9f}".rstrip("0").rstrip(".") + "s"
