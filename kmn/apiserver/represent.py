"""Objects, lists and events as bytes, in the form that a client accepts: JSON, YAML, tables, metadata alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
import yaml

from kmn.apiserver.request import Form
from kmn.apiserver.store import Event, EventType, Record
from kmn.apiserver.tables import table_of
from kmn.k8s.objects import Object
from kmn.k8s.resources import Resource

__all__ = ["Representation"]


class Representation:
    """How one request is answered. ``include`` is a table's ``includeObject``: Metadata, Object or None.

    ``resource`` is the version that was asked for, which may be another one than objects are stored in.
    """

    def __init__(self, resource: Resource, form: Form, include: str = "Metadata") -> None:
        self._resource = resource
        self._form = form
        self._include = include
        self._headed = False  # a watch's columns were sent

    @property
    def content_type(self) -> str:
        """Of the answer."""
        return "application/yaml" if self._form == "yaml" else "application/json"

    def one(self, obj: Object) -> bytes:
        """One object, which need not be stored (a dry run, a Scale)."""
        obj = self._as_asked(obj)
        if self._form == "table":
            return orjson.dumps(table_of(self._resource, [obj], include=self._include, version=_version(obj)))
        if self._form == "metadata":
            return orjson.dumps(_metadata_only(obj))
        return self.plain(obj)

    def plain(self, obj: Any) -> bytes:
        """What has no table: Status and the like."""
        if self._form == "yaml":
            return yaml.dump(obj, Dumper=yaml.CSafeDumper, sort_keys=False).encode()
        return orjson.dumps(obj)

    def many(self, records: Iterable[Record], metadata: dict[str, Any]) -> bytes:
        """A list."""
        if self._form == "table":
            objects = [self._as_asked(record.object) for record in records]
            table = table_of(self._resource, objects, include=self._include, version=metadata["resourceVersion"])
            table["metadata"] = metadata
            return orjson.dumps(table)
        head: dict[str, Any] = {
            "kind": f"{self._resource.kind}List",
            "apiVersion": self._resource.api_version,
            "metadata": metadata,
        }
        if self._form == "json" and self._resource.stored is None:  # the stored bytes, joined
            return b'%b,"items":[%b]}' % (orjson.dumps(head)[:-1], b",".join([record.json for record in records]))
        if self._form == "metadata":
            head |= {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1"}
            return orjson.dumps({**head, "items": [_metadata_only(record.object) for record in records]})
        return self.plain({**head, "items": [self._as_asked(record.object) for record in records]})

    def event(self, type: EventType, event: Event) -> bytes:
        """A line of a watch; ``type`` differs from the event's own where a selection was entered or left."""
        if self._form == "json" and type == event.type and self._resource.stored is None:
            return event.line
        return self.added(event.record, type)

    def added(self, record: Record, type: EventType = "ADDED") -> bytes:
        """A line of a watch that is made up for a record."""
        if self._form in ("json", "yaml"):  # watches have no YAML form
            if self._resource.stored is not None:
                return _line(type, self._as_asked(record.object))
            return b'{"type":"%b","object":%b}\n' % (type.encode(), record.json)
        if self._form == "metadata":
            return _line(type, _metadata_only(record.object))
        table = table_of(
            self._resource,
            [self._as_asked(record.object)],
            include=self._include,
            version=str(record.version),
            header=not self._headed,
        )
        self._headed = True
        return _line(type, table)

    def bookmark(self, version: int, *, initial_end: bool = False) -> bytes:
        """A line that says how far the watch has come."""
        metadata: dict[str, Any] = {"resourceVersion": str(version)}
        if initial_end:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        if self._form == "table":
            table = table_of(self._resource, [], include=self._include, version=str(version), header=not self._headed)
            table["metadata"] = metadata
            return _line("BOOKMARK", table)
        kind, api_version = self._resource.kind, self._resource.api_version
        if self._form == "metadata":
            kind, api_version = "PartialObjectMetadata", "meta.k8s.io/v1"
        return _line("BOOKMARK", {"kind": kind, "apiVersion": api_version, "metadata": metadata})

    def _as_asked(self, obj: Object) -> Object:
        """An object in the version that was asked for: versions differ in their name only."""
        if self._resource.stored is None or obj.get("apiVersion") != self._resource.stored.api_version:
            return obj
        return {**obj, "apiVersion": self._resource.api_version}


def _line(type: str, obj: Object) -> bytes:
    return orjson.dumps({"type": type, "object": obj}) + b"\n"


def _version(obj: Object) -> str:
    return obj["metadata"].get("resourceVersion", "")  # type: ignore[no-any-return]


def _metadata_only(obj: Object) -> Object:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}
