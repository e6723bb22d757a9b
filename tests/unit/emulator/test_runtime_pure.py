"""Parts of the container runtime that need no socket."""

from __future__ import annotations

import pytest

from kmn.emulator.podprobes import not_emulated, probe_of, seconds_of
from kmn.emulator.runtime import grpc, http1, http2
from kmn.emulator.runtime.checks import http_request
from kmn.emulator.runtime.probes import Threshold
from kmn.emulator.runtime.protocol import Check, Container, Probe, decode, encode
from kmn.emulator.runtime.udp import answer


@pytest.mark.parametrize(
    ("data", "verdict"),
    [
        (b"GET / HTTP/1.1\r\n", True),
        (b"OPTIONS * HTTP/1.0\n", True),
        (b"G", None),
        (b"GET /long", None),
        (b"GET " + b"x" * 9000, False),
        (b"GET /\n", False),
        (b"get / HTTP/1.1\r\n", False),
        (b"\x16\x03\x01", False),
    ],
)
def test_first_bytes_of_http_1(data: bytes, verdict: bool | None) -> None:
    assert http1.looks_like(data) is verdict


@pytest.mark.parametrize(("data", "verdict"), [(http2.PREFACE + b"x", True), (b"PRI *", None), (b"PRIX", False)])
def test_first_bytes_of_http_2(data: bytes, verdict: bool | None) -> None:
    assert http2.looks_like(data) is verdict


def test_thresholds_count_what_comes_in_a_row() -> None:
    threshold = Threshold(success=2, failure=3)
    outcomes = [True, False, True, True, False, False, True, False, False, False, True, True]
    verdicts = [None, None, None, True, True, True, True, True, True, False, False, True]
    assert [threshold.count(outcome) for outcome in outcomes] == verdicts


def test_udp_commands() -> None:
    client = ("10.0.0.1", 5)
    asked = (b"hostname\n", b"HostName", b"clientip", b"echo  a b", b"echo", b"x")
    assert [answer("web", client, data) for data in asked] == [b"web", b"web", b"10.0.0.1:5", b" a b", b"echo", b"x"]


def test_messages_survive_the_wire() -> None:
    container = Container("u/c/0", "ns", ("0.0.0.0",), "web", "default", "n1", "c", (("TCP", 80),), 1.5, False)
    probe = Probe("u/c/0/liveness", "u/c/0", "liveness", "ns", Check("http", "10.0.0.1", 80, "/x", (("A", "b"),)))
    for message, kind in ((container, Container), (probe, Probe)):
        decoded = decode(encode("op", "any", [message]))
        assert [kind.load(item) for item in decoded["items"]] == [message]  # type: ignore[attr-defined]


def test_http_probe_request() -> None:
    check = Check("http", "10.0.0.1", 80, "/ok", (("host", "shop.example"), ("X-A", "1")))
    assert http_request(Probe("p", "c", "readiness", "ns", check)).decode().split("\r\n") == [
        "GET /ok HTTP/1.1",
        "host: shop.example",
        "User-Agent: kube-probe/1.37",
        "Accept: */*",
        "X-A: 1",
        "X-Kmn-Probe: readiness",
        "Connection: close",
        "",
        "",
    ]


def test_grpc_health_messages() -> None:
    assert grpc.check_request("") == b"\0\0\0\0\0"
    assert grpc.check_request("shop") == b"\0\0\0\0\6\x0a\4shop"
    assert grpc.status_of(grpc.check_response(grpc.NOT_SERVING)) == grpc.NOT_SERVING
    with pytest.raises(ValueError, match="at most 127 bytes"):
        grpc.check_request("x" * 128)


def test_delays_count_from_the_start_unless_the_cluster_overrides_them() -> None:
    probe = {"tcpSocket": {"port": "web"}, "initialDelaySeconds": 9}
    container = {"name": "c", "ports": [{"name": "web", "containerPort": 8080}], "livenessProbe": probe}

    def delay(initial: float | None) -> float:
        found = probe_of(
            container, "liveness", run="r", address="10.0.0.1", netns="n", running_for=4, initial_delay=initial
        )
        assert found is not None
        assert found.check == Check("tcp", "10.0.0.1", 8080)
        return found.delay

    assert (delay(None), delay(0), delay(5)) == (5, 0, 1)


def test_what_is_not_emulated_is_named_by_its_field() -> None:
    container = {
        "name": "c",
        "readinessProbe": {"exec": {"command": ["x"]}},
        "livenessProbe": {"httpGet": {"port": 1, "scheme": "HTTPS"}},
        "lifecycle": {"preStop": {"sleep": {"seconds": 1}}, "postStart": {"exec": {"command": ["x"]}}},
    }
    assert not_emulated({"spec": {"containers": [container]}}) == [
        "spec.containers[0].readinessProbe.exec",
        "spec.containers[0].livenessProbe.httpGet.scheme: HTTPS",
        "spec.containers[0].lifecycle.postStart.exec",
    ]


def test_seconds_of_annotations() -> None:
    assert [seconds_of(text) for text in (None, "0", "1.5")] == [None, 0, 1.5]
    for wrong in ("x", "-1", "inf", "nan"):
        with pytest.raises(ValueError):
            seconds_of(wrong)
