"""Kubernetes' protobuf, read only: ``kubectl create deployment`` and other typed clients (1.32 and later) send it.

Answers are always JSON, which the same clients accept. The field numbers are in ``protobuf_schema.json``
(``tools/protobuf_schema.py`` makes it); what comes out is what Go's JSON of the same object would be.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections.abc import Callable, Iterator
from functools import cache
from importlib import resources
from typing import Any

from kmn.k8s.errors import ApiError, Reason
from kmn.k8s.objects import Object

__all__ = ["MEDIA_TYPE", "decode"]

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"

_MAGIC = b"k8s\x00"
_MACHINERY = "k8s.io.apimachinery.pkg."
_UNKNOWN = _MACHINERY + "runtime.Unknown"
# Kinds that are the same in every group.
_SHARED = frozenset(("DeleteOptions",))
_FIXED64 = 1  # wire types: 0 varint, 1 and 5 fixed 64 and 32 bits, 2 bytes
_SIGN = 1 << 63

Field = tuple[str, str, str]  # JSON name, type, flags (see tools/protobuf_schema.py)


@cache
def _schema() -> dict[str, dict[int, Field]]:
    text = resources.files("kmn.apiserver").joinpath("protobuf_schema.json").read_text()
    return {
        message: {int(number): tuple(field) for number, field in fields.items()}
        for message, fields in json.loads(text).items()
    }


def decode(data: bytes) -> Object:
    """The object in a request's body. Raises ApiError: 400 for nonsense, 415 for types that are not known."""
    if not data.startswith(_MAGIC):
        raise ApiError(400, Reason.BAD_REQUEST, "the body of the request is not Kubernetes protobuf: no magic number")
    try:
        envelope = _message(_UNKNOWN, data[len(_MAGIC) :])
        api_version, kind = envelope["apiVersion"], envelope["kind"]
        message = _message_of(api_version, kind)
        obj = _message(message, base64.b64decode(envelope.get("raw", "")))
    except (IndexError, KeyError, ValueError, TypeError) as error:
        raise ApiError(
            400, Reason.BAD_REQUEST, f"the body of the request is not Kubernetes protobuf: {error!r}"
        ) from None
    return {"apiVersion": api_version, "kind": kind, **obj}


def _message_of(api_version: str, kind: str) -> str:
    group, _, version = api_version.rpartition("/")
    package = f"k8s.io.api.{group.partition('.')[0] or 'core'}.{version}"
    name = f"{_MACHINERY}apis.meta.v1.{kind}" if kind in _SHARED else f"{package}.{kind}"
    if name not in _schema():
        raise ApiError(415, Reason.UNSUPPORTED_MEDIA_TYPE, f"kmn reads {kind} of {api_version} as JSON or YAML only")
    return name


def _message(name: str, data: bytes) -> dict[str, Any]:
    """A message as JSON would have it."""
    fields = _schema()[name]
    result: dict[str, Any] = {}
    for number, raw in _wire(data):
        field = fields.get(number)
        if field is None:
            continue  # of a later Kubernetes than the schema: unknown fields are dropped, as in Go
        json_name, kind, flags = field
        if "m" in flags:
            key, value = _entry(kind, raw)
            result.setdefault(json_name, {})[key] = value
        elif "r" in flags:
            result.setdefault(json_name, []).extend(_repeated(kind, raw))
        elif "i" in flags:
            result.update(_value(kind, raw))
        else:
            value = _value(kind, raw)
            if value is not None and (value not in ("", 0, False) or "z" in flags):
                result[json_name] = value
    return result


def _wire(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and raw values."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        match tag & 7:
            case 0:
                value, position = _varint(data, position)
                yield tag >> 3, value
            case 2:
                size, position = _varint(data, position)
                if position + size > len(data):
                    raise ValueError("a field is longer than its message")
                yield tag >> 3, data[position : position + size]
                position += size
            case 1 | 5 as kind:
                size = 8 if kind == _FIXED64 else 4
                yield tag >> 3, data[position : position + size]
                position += size
            case kind:
                raise ValueError(f"wire type {kind}")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _entry(kind: str, raw: int | bytes) -> tuple[str, Any]:
    parts = dict(_wire(_bytes(raw)))
    value = parts.get(2, 0 if kind in ("bool", "int32", "int64") else b"")
    return _bytes(parts.get(1, b"")).decode(), _value(kind, value)


def _repeated(kind: str, raw: int | bytes) -> list[Any]:
    if kind in ("int32", "int64", "bool") and isinstance(raw, bytes):  # packed
        values, position = [], 0
        while position < len(raw):
            number, position = _varint(raw, position)
            values.append(_value(kind, number))
        return values
    return [_value(kind, raw)]


def _value(kind: str, raw: int | bytes) -> Any:
    match kind:
        case "string":
            return _bytes(raw).decode()
        case "bytes":
            return base64.b64encode(_bytes(raw)).decode()
        case "bool":
            return bool(raw)
        case "int32" | "int64":
            return _signed(raw)
    special = _SPECIAL.get(kind.removeprefix(_MACHINERY))
    return special(_bytes(raw)) if special else _message(kind, _bytes(raw))


def _bytes(raw: int | bytes) -> bytes:
    if isinstance(raw, int):
        raise ValueError("a number where text or a message belongs")
    return raw


def _signed(raw: int | bytes) -> int:
    if isinstance(raw, bytes):
        raise ValueError("text where a number belongs")
    return raw - 2 * _SIGN if raw >= _SIGN else raw


def _time(data: bytes, timespec: str) -> str | None:
    parts = dict(_wire(data))
    seconds, nanos = _signed(parts.get(1, 0)), _signed(parts.get(2, 0))
    if not parts:
        return None  # Go's zero time, which JSON has as null
    moment = dt.datetime(1970, 1, 1) + dt.timedelta(seconds=seconds, microseconds=nanos // 1000)
    return moment.isoformat(timespec=timespec) + "Z"


def _int_or_string(data: bytes) -> int | str:
    parts = dict(_wire(data))
    return _bytes(parts.get(3, b"")).decode() if parts.get(1) else _signed(parts.get(2, 0))


# Types with a JSON form of their own.
_SPECIAL: dict[str, Callable[[bytes], Any]] = {
    "apis.meta.v1.Time": lambda data: _time(data, "seconds"),
    "apis.meta.v1.MicroTime": lambda data: _time(data, "microseconds"),
    "apis.meta.v1.FieldsV1": lambda data: json.loads(_bytes(dict(_wire(data)).get(1, b"{}"))),
    "api.resource.Quantity": lambda data: _bytes(dict(_wire(data)).get(1, b"0")).decode(),
    "runtime.RawExtension": lambda data: json.loads(_bytes(dict(_wire(data)).get(1, b"null"))),
    "util.intstr.IntOrString": _int_or_string,
}
