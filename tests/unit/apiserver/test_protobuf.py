"""Protobuf bodies: an encoder of a few lines writes what kubectl would send."""

from __future__ import annotations

import base64

import pytest

from kmn.apiserver import protobuf
from kmn.k8s.errors import ApiError


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    result = b""
    while number > 0x7F:
        result += bytes((number & 0x7F | 0x80,))
        number >>= 7
    return result + bytes((number,))


def field(number: int, value: bytes | str | int) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def envelope(api_version: str, kind: str, body: bytes) -> bytes:
    return b"k8s\0" + field(1, field(1, api_version) + field(2, kind)) + field(2, body)


def test_config_map() -> None:
    meta = field(1, "c") + field(2, "") + field(8, field(1, 1700000000)) + field(11, field(1, "a") + field(2, "b"))
    data = (
        field(2, field(1, "k") + field(2, "v"))
        + field(2, field(1, "empty"))
        + field(3, field(1, "b") + field(2, b"\xff"))
    )
    assert protobuf.decode(envelope("v1", "ConfigMap", field(1, meta) + data)) == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "c", "creationTimestamp": "2023-11-14T22:13:20Z", "labels": {"a": "b"}},
        "data": {"k": "v", "empty": ""},
        "binaryData": {"b": base64.b64encode(b"\xff").decode()},
    }


def test_zero_is_kept_where_it_means_something() -> None:
    spec = field(1, 0) + field(5, 0)  # replicas is a pointer in Go, minReadySeconds is not
    decoded = protobuf.decode(
        envelope("apps/v1", "Deployment", field(1, field(1, "d") + field(8, b"")) + field(2, spec))
    )
    assert decoded["spec"] == {"replicas": 0}
    assert decoded["metadata"] == {"name": "d"}, "a time of zero is no time"


def test_inlined_and_special_types() -> None:
    volume = field(1, "v") + field(2, field(19, field(1, field(1, "cfg"))))  # a ConfigMap, inlined twice over
    port = field(1, "p") + field(3, 80) + field(4, field(1, 1) + field(3, "http")) + field(5, 0)
    pod = protobuf.decode(envelope("v1", "Pod", field(2, field(1, volume) + field(25, -5))))
    assert pod["spec"] == {"volumes": [{"name": "v", "configMap": {"name": "cfg"}}], "priority": -5}
    service = protobuf.decode(envelope("v1", "Service", field(2, field(1, port))))
    assert service["spec"]["ports"] == [{"name": "p", "port": 80, "targetPort": "http"}]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"{}", 400),
        (b"k8s\0", 400),
        (envelope("v1", "Pod", b"\x0a\xff"), 400),
        (envelope("v1", "Pod", b"\xff" * 20), 400),
        (envelope("example.org/v1", "Frob", b""), 415),
    ],
)
def test_nonsense(data: bytes, code: int) -> None:
    with pytest.raises(ApiError) as caught:
        protobuf.decode(data)
    assert caught.value.code == code
