"""Access logs: a line explained, lines counted, files that are bounded, and what the commands make of them."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
from pathlib import Path
from typing import Any

import pytest

from kmn.cli.ingresscounters import rows
from kmn.cli.ingresslog import Filter
from kmn.errors import UserError
from kmn.ingress.accesslog import Entry, entry_of, rule_of, split_address
from kmn.ingress.counting import Counting
from kmn.ingress.logfile import LogReader, kept_lines, older
from kmn.ingress.logkeeper import LogKeeper
from kmn.ingress.model import Owner
from kmn.ingress.tally import Count, Place, Tally, bucket_of, counts_of, middle_of
from kmn.k8s.objects import Key

RULE = "Ingress default/shop spec.rules[0].http.paths[1]"


def line(**fields: Any) -> bytes:
    """As Envoy writes it."""
    told = {
        "address": "10.244.0.2:8080", "attempts": 1, "client": "203.0.113.10:57748", "cluster": "default/red:80 h2c",
        "connect": 300, "connected": None, "details": "via_upstream", "first": 1149, "flags": "-",
        "host": "shop.example", "method": "GET", "path": "/a?q=1", "port": 80, "protocol": "HTTP/1.1", "received": 7,
        "rule": RULE, "sent": 345, "status": 200, "time": "2026-11-21T10:49:33.846Z", "tls": None, "total": 1500,
    }  # fmt: skip
    return json.dumps({**told, **fields}).encode()


def entry(**fields: Any) -> Entry:
    return entry_of(line(**fields), "ingress-nginx/c-1", {"10.244.0.2": "pod default/red-1"}.get)


# --- a line


def test_a_request_in_words() -> None:
    assert str(entry()) == (
        "10:49:33.846 ingress-nginx/c-1: 203.0.113.10 GET http://shop.example/a?q=1 HTTP/1.1: 200, 345 bytes in 1.5 ms "
        f"(first byte 1.1): {RULE} -> default/red:80, pod default/red-1"
    )


def test_a_request_for_programs() -> None:
    assert entry(connected=10, tls="TLSv1.3").as_json() == {
        "time": "2026-11-21T10:49:33.846Z", "proxy": "ingress-nginx/c-1",
        "client": {"address": "203.0.113.10", "port": 57748}, "method": "GET", "scheme": "https",
        "host": "shop.example", "path": "/a?q=1", "port": 80, "tls": "TLSv1.3", "protocol": "HTTP/1.1", "status": 200,
        "bytes": {"received": 7, "sent": 345},
        "owner": {"kind": "Ingress", "namespace": "default", "name": "shop"}, "rule": "spec.rules[0].http.paths[1]",
        "backend": "default/red:80", "pod": "default/red-1", "endpoint": "10.244.0.2:8080", "attempts": 1,
        "milliseconds": {"total": 1.5, "firstByte": 1.149, "connect": 0.3}, "details": "via_upstream",
    }  # fmt: skip


REFUSED = "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"


@pytest.mark.parametrize(
    ("flags", "details", "words"),
    [
        ("-", "via_upstream", None),
        ("UH", "no_healthy_upstream", "no ready endpoint"),
        ("UF", REFUSED, "connection refused"),
        ("URX,UF", "upstream_reset_before_response_started{connection_timeout}",
         "no connection in time, tried again in vain"),
        ("UT", "response_timeout", "timeout"),
        ("DC", "downstream_remote_disconnect", "the client went away"),
        ("XYZ", "", "XYZ"),
    ],
)  # fmt: skip
def test_what_went_wrong_in_words(flags: str, details: str, words: str | None) -> None:
    assert entry(flags=flags, details=details).problem == words


def test_a_request_that_no_rule_is_for() -> None:
    nobody = {"rule": "no host", "cluster": None, "address": None, "connect": None, "first": None}
    assert str(entry(**nobody, status=404)).endswith("404, 345 bytes in 1.5 ms: no host")
    assert str(entry(**{**nobody, "rule": None}, status=404, flags="NR")).endswith(": no rule")


def test_a_connection_that_is_passed_on() -> None:
    told = json.loads(line(rule="TLSRoute default/db spec.rules[0]", duration=2500))
    for name in ("method", "path", "protocol", "status", "total", "first", "connect", "connected", "attempts"):
        del told[name]
    found = entry_of(json.dumps(told).encode(), "p", lambda _: None)
    assert "connection to port 80 for shop.example: done, 345 bytes in 2500.0 ms: TLSRoute default/db" in str(found)
    assert "method" not in found.as_json()


@pytest.mark.parametrize("text", [b"{", b"[]", b"{}", b'{"client": 1}'])
def test_what_is_no_line(text: bytes) -> None:
    with pytest.raises(ValueError):
        entry_of(text, "p", lambda _: None)


def test_names() -> None:
    assert rule_of(RULE) == (Owner("Ingress", "default", "shop"), "spec.rules[0].http.paths[1]")
    assert rule_of("no host") == (None, "no host")
    assert [split_address(text) for text in ("10.0.0.1:80", "[fd00::1]:80", "pipe")] == [
        ("10.0.0.1", 80), ("fd00::1", 80), ("pipe", None)]  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "passes"),
    [
        (Filter(), True),
        (Filter(namespace="default"), True),
        (Filter(namespace="other"), False),
        (Filter(host="SHOP.example"), True),
        (Filter(host="example"), False),
        (Filter(status="2xx"), True),
        (Filter(status="404"), False),
        (Filter(owner="shop"), True),
        (Filter(owner="default/shop"), True),
        (Filter(owner="cart"), False),
    ],
)
def test_which_are_wanted(wanted: Filter, passes: bool) -> None:
    assert wanted.wants(entry()) is passes
    assert wanted.wants(entry(host="shop.example:80")) is passes


@pytest.mark.parametrize("status", ["x", "600", "5x", "55xx"])
def test_a_status_that_there_cannot_be(status: str) -> None:
    with pytest.raises(UserError):
        Filter(status=status).check()


# --- counts


def test_who_has_an_address_is_named(tmp_path: Path) -> None:
    """A pod on its node's network goes before the node."""
    counting = Counting(lambda: None)
    for name, address in (("n1", "172.18.0.2"), ("n2", "172.18.0.3")):
        counting.name_node(Key("", name), {"status": {"addresses": [{"type": "InternalIP", "address": address}]}})
    on_host = {"addresses": ["172.18.0.3"], "targetRef": {"name": "agent"}}
    counting.name_pods(Key("default", "agent-1"), {"endpoints": [on_host]})
    counting.take("alb", [line(address=f"{address}:30080") for address in ("172.18.0.2", "172.18.0.3", "172.18.0.4")])

    async def told() -> bytes:
        async with counting.told(tmp_path / "counters.sock"):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "counters.sock")
            answer = await reader.read()
            writer.close()
            return answer

    counts = counts_of(json.loads(asyncio.run(told())))
    assert {place.pod for place in counts} == {"node n1", "default/agent", "172.18.0.4:30080"}


def test_nothing_is_left_out() -> None:
    pods = {"10.244.0.2": "default/red-1"}
    tally = Tally(lambda address: pods.get(address, ""))
    tally.take("nginx", [line(), line(status=503, flags="UH", address=None), line(status=0, total=None), line()[:99]])
    pods["10.244.0.2"] = "default/red-2"
    tally.take("nginx", [line()])
    tally.forget_names()
    tally.take("nginx", [line(), line(status=101, total=10**9)])
    counts = counts_of(json.loads(json.dumps(tally.as_json())))
    first, nobody, second = (Place("nginx", RULE, "default/red:80", pod) for pod in
                             ("default/red-1", "", "default/red-2"))  # fmt: skip
    assert {place: count.answers for place, count in counts.items()} == {
        first: {2: 2, 0: 1}, nobody: {5: 1}, second: {2: 1, 1: 1}}  # fmt: skip
    assert (counts[first].sent, counts[first].received, counts[first].requests) == (3 * 345, 21, 3)
    assert (counts[first].mean, counts[second].mean) == (1.5, 1.5)  # what a WebSocket took is none of it


def test_percentiles_are_exact_to_three_percent() -> None:
    dice = random.Random(1)
    values = [int(dice.lognormvariate(7, 2)) for _ in range(20_000)]
    count = Count()
    for value in values:
        bucket = bucket_of(value)
        count.durations[bucket] = count.durations.get(bucket, 0) + 1
    cuts = statistics.quantiles(values, n=100)
    for percent in (50, 99):
        found = count.percentile(percent)
        assert found is not None
        assert abs(found * 1000 - cuts[percent - 1]) <= 0.035 * cuts[percent - 1] + 1
    assert Count().percentile(50) is None
    assert [middle_of(bucket_of(value)) for value in (0, 1, 31)] == [0, 1, 31]


def test_rows_are_rules_and_whatever_else_was_counted() -> None:
    counts = {Place("nginx", RULE, "default/red:80", pod): Count({2: 1}) for pod in ("a", "b")}
    found = rows([("nginx", RULE), ("nginx", "Ingress a/unused spec")], {**counts, Place("nginx", "", "", ""): Count()})
    assert [(row.rule, row.count.requests) for row in found] == [
        (RULE, 2),
        ("Ingress a/unused spec", 0),
        ("no rule", 0),
    ]
    assert [row.concerns("default") for row in found] == [True, False, False]
    assert [end["pod"] for end in found[0].as_json()["by"]] == ["a", "b"]


# --- files


def test_a_reader_follows_from_file_to_file(tmp_path: Path) -> None:
    log = tmp_path / "log"
    reader = LogReader(log)
    assert reader.read() == []
    log.write_bytes(b"one\ntw")
    late = LogReader(log, from_end=True)
    assert reader.read() == [b"one"]
    with log.open("ab") as writing:
        writing.write(b"o\n")
        writing.flush()
        assert reader.read() == [b"two"]
        log.rename(older(log))
        writing.write(b"three\n")  # the writer has not heard of it yet
    log.write_bytes(b"four\n")
    assert [reader.read(), reader.read(), reader.read()] == [[b"three"], [b"four"], []]
    assert late.read() == [b"o", b"three"]
    assert kept_lines(log) == [b"one", b"two", b"three", b"four"]
    reader.close()
    late.close()


def test_a_full_file_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that goes on into the file that it has open until it is told to open another one, as Envoy does."""
    monkeypatch.setattr("kmn.ingress.logkeeper._FULL", 1000)
    monkeypatch.setattr("kmn.ingress.logkeeper._PAUSE", 0.0)
    log, taken = tmp_path / "log", list[bytes]()
    files = [log.open("ab", buffering=0)]
    wanted = [b"%04d" % number for number in range(2000)]

    async def reopen() -> None:
        files[0].write(b"late\n")
        files.insert(0, log.open("ab", buffering=0))

    async def write() -> None:
        keeper = LogKeeper(log, reopen, taken.extend)
        keeper.start()
        for text in wanted:
            files[0].write(text + b"\n")
            await asyncio.sleep(0)
            assert log.stat().st_size + (older(log).stat().st_size if older(log).exists() else 0) < 2500
        await keeper.stop()

    asyncio.run(write())
    assert [text for text in taken if text != b"late"] == wanted
    assert len(files) > 5
    assert taken.count(b"late") == len(files) - 1
    again: list[bytes] = []

    async def start_again() -> None:
        keeper = LogKeeper(log, reopen, again.extend)
        keeper.start()
        await keeper.stop()

    asyncio.run(start_again())
    assert again == kept_lines(log)
    for file in files:
        file.close()
