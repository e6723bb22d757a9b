"""What the measurements compute from what they measured. (The measurements themselves are no tests.)"""

from __future__ import annotations

import math
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks import http, ingress, paths, services
from benchmarks.balancing import Arrival, ideal
from benchmarks.connections import shares
from benchmarks.http import Load
from benchmarks.peers import kubeproxy
from benchmarks.report import number
from benchmarks.rounds import in_turn, paired_ratio

WRK = """\
Running 2s test @ http://10.244.0.3:8080/
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.31ms  584.33us   7.78ms   81.50%
    Req/Sec     5.68k   702.10     6.90k    70.00%
  Latency Distribution
     50%  193.00us
     75%    1.50ms
     90%    2.07ms
     99%    1.27s 
  11303 requests in 2.01s, 1.57MB read
  Socket errors: connect 1, read 2, write 281, timeout 3
  Non-2xx or 3xx responses: 4
Requests/sec:   5628.79
Transfer/sec:    801.58KB
"""  # noqa: W291


def test_what_wrk_prints_is_read() -> None:
    assert http.parse(WRK) == Load(5628.79, pytest.approx(193e-6), 1.27, 291, 11303)


def test_without_trouble_wrk_names_no_errors() -> None:
    quiet = "\n".join(line for line in WRK.splitlines() if "errors" not in line and "Non-2xx" not in line)
    assert http.parse(quiet).errors == 0


def test_words_of_wrk_are_passed_on() -> None:
    with pytest.raises(http.UnreadableOutput, match="Connection refused"):
        http.parse("unable to connect to 10.99.106.170:8080 Connection refused")


def test_nginx_listens_on_every_port_in_one_process(tmp_path: Path) -> None:
    text = http.configuration([8080, 8081], tmp_path)
    assert "listen 8080 backlog=4096; listen 8081 backlog=4096;" in text
    assert "master_process off;" in text
    assert f"pid {tmp_path}/nginx.pid;" in text


def test_rounds_measure_all_in_turn() -> None:
    calls: list[str] = []

    def measure(name: str) -> int:
        calls.append(name)
        return len(calls)

    assert in_turn({"a": lambda: measure("a"), "b": lambda: measure("b")}, 2) == {"a": [1, 3], "b": [2, 4]}
    assert calls == ["a", "b", "a", "b"]


def test_a_ratio_is_the_median_of_those_within_rounds() -> None:
    # Of the medians it would be 10 / 10: the second round's machine was ten times as fast for both.
    assert paired_ratio([5, 90, 10], [10, 100, 10]) == 0.9
    assert math.isinf(paired_ratio([1.0], [0.0]))


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.12345, "0.123"), (12.34, "12.3"), (999.4, "999"), (28_249, "28,200"), (1_234_567, "1,230,000")],
)
def test_numbers_have_three_digits_and_no_exponent(value: float, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize("wanted", [1, 19_000, 19_001, 100_000])
def test_connections_are_shared_out(wanted: int) -> None:
    counts = shares(wanted, 19_000)
    assert sum(counts) == wanted
    assert max(counts) <= 19_000
    assert max(counts) - min(counts) <= 1
    assert len(counts) == -(-wanted // 19_000)


def test_ways_are_compared_with_the_direct_one_of_the_same_round() -> None:
    direct, vip = "kmn, same node: direct", "kmn, same node: ClusterIP"
    loads = {
        direct: [Load(100, 1e-3, 2e-3, 0), Load(10, 1e-3, 2e-3, 0)],
        vip: [Load(50, 3e-3, 4e-3, 2), Load(5, 3e-3, 4e-3, 0)],
    }
    samples = {
        **{("HTTP, a connection a request", name): each for name, each in loads.items()},
        **{("HTTP, connections kept", name): each[:1] for name, each in loads.items()},
        ("Bulk TCP, one connection", direct): [8.0],
        ("Bulk TCP, one connection", vip): [6.0],
    }
    tables = paths.rows(samples, {direct: "", vip: direct})
    close = {row.what: row for row in tables["HTTP, a connection a request"]}
    assert (close[direct].value, close[direct].ratio, close[direct].wanted) == (55, None, "")
    assert (close[vip].value, close[vip].ratio, close[vip].wanted) == (27.5, 0.5, "≥ 0.95")
    assert (close[f"{vip}: p99"].value, close[f"{vip}: p99"].ratio) == (pytest.approx(4), pytest.approx(2))
    assert close[f"{vip}: errors"].value == 2
    assert f"{direct}: errors" not in close
    bulk = {row.what: row for row in tables["Bulk TCP, one connection"]}
    assert (bulk[vip].value, bulk[vip].unit, bulk[vip].ratio) == (6.0, "Gbit/s", 0.75)


def test_numbers_of_services_are_compared_beside_the_straight_way() -> None:
    """Twice as slow in all is the machine; twice as slow through the VIP alone is the number of Services."""
    few = services.Reached([1e-4], [Load(1000, 1e-3, 2e-3, 0)], [Load(900, 1e-3, 2e-3, 0)])
    slow_machine = services.Reached([2e-4], [Load(500, 2e-3, 4e-3, 0)], [Load(450, 2e-3, 4e-3, 0)])
    slow_vip = services.Reached([1e-4], [Load(1000, 1e-3, 2e-3, 0)], [Load(450, 2e-3, 4e-3, 0)])
    of = {row.what: row.ratio for row in slow_machine.rows("n", few)}
    assert (of["n: connections through a VIP"], of["n: request through a VIP, p50"]) == (1, 1)
    of = {row.what: row.ratio for row in slow_vip.rows("n", few)}
    assert (of["n: connections through a VIP"], of["n: request through a VIP, p50"]) == (0.5, 2)


# --- the peer's rules -------------------------------------------------------------------------------------------------

SERVICE = kubeproxy.Service("web", "10.97.0.1", 80, ("10.245.0.3", "10.245.1.2"), 30080, "192.0.2.1")


def block(text: str, head: str) -> list[str]:
    """Lines of a chain or map."""
    body = text.split(f"{head} {{\n", 1)[1]
    return [line.strip() for line in body.split("\n}", 1)[0].splitlines()]


def test_addresses_lead_to_chains_by_one_map() -> None:
    rules = kubeproxy.rules([SERVICE], "172.19.0.2")
    assert block(rules, "map service-ips")[1] == (
        "elements = { 10.97.0.1 . tcp . 80 : goto service-web, 192.0.2.1 . tcp . 80 : goto external-web }"
    )
    assert block(rules, "map service-nodeports")[1] == "elements = { tcp . 30080 : goto external-web }"
    assert "elements = { 172.19.0.2 }" in rules


def test_a_random_number_chooses_the_endpoint() -> None:
    rules = kubeproxy.rules([SERVICE], "172.19.0.2")
    assert block(rules, "chain service-web") == [
        "ip daddr 10.97.0.1 ip saddr != 10.245.0.0/16 jump mark-for-masquerade",
        "numgen random mod 2 vmap { 0 : goto endpoint-web-0, 1 : goto endpoint-web-1 }",
    ]
    assert block(rules, "chain endpoint-web-1") == [
        "ip saddr 10.245.1.2 jump mark-for-masquerade",
        "meta l4proto tcp dnat to 10.245.1.2:80",
    ]


def test_ways_in_from_outside_are_masqueraded_unless_local() -> None:
    cluster = kubeproxy.rules([SERVICE], "172.19.0.2")
    local = kubeproxy.rules(
        [kubeproxy.Service("web", "10.97.0.1", 80, ("10.245.0.3",), 30080, local=True)], "172.19.0.2"
    )
    assert block(cluster, "chain external-web") == ["jump mark-for-masquerade", "goto service-web"]
    assert block(local, "chain external-web") == ["goto service-web"]


def test_nft_takes_the_rules() -> None:
    """Checked, not loaded."""
    if shutil.which("nft") is None:
        pytest.skip("no nft")
    for text in (
        kubeproxy.rules([SERVICE], "172.19.0.2"),
        kubeproxy.rules([], "172.19.0.2"),
        kubeproxy.gateway_rules(),
    ):
        done = subprocess.run(["unshare", "-rn", "nft", "-c", "-f", "-"], input=text, text=True, capture_output=True)
        if "unshare failed" in done.stderr or "Operation not permitted" in done.stderr:
            pytest.skip(f"no network namespace: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr


def test_the_ingress_is_compared_with_each_other_proxy_round_by_round() -> None:
    def measured(rate: float, busy: float) -> ingress.Measured:
        return ingress.Measured(Load(rate, 1e-3, 2e-3, 1), busy)

    rounds = {
        ingress.INGRESS: [measured(50, 3e-5), measured(90, 3e-5), measured(10, 6e-5)],
        ingress.NGINX: [measured(100, 1e-5), measured(100, 1e-5), measured(20, 2e-5)],
        ingress.BARE: [measured(50, 3e-5), measured(100, 3e-5), measured(10, 6e-5)],
    }
    samples = {(way, connections): of_way for way, of_way in rounds.items() for connections in ingress.CONNECTIONS}
    table = {row.what: row for row in ingress.rows(samples)}
    assert table["16 connections: requests, nginx"].ratio == pytest.approx(0.5)
    assert table[f"16 connections: requests, {ingress.BARE}"].ratio == pytest.approx(1)
    busy = table["64 connections: processor time of the proxy for a request, nginx"]
    assert (busy.value, busy.ratio) == (pytest.approx(10), pytest.approx(3))
    assert table["failed, all together"].value == 18


def test_least_connections_are_computed() -> None:
    """Whoever has the fewest gets the next; what has ended by then counts no more."""
    assert ideal([Arrival(at, 10.0) for at in range(5)], 2) == [1, 0, 1, 0, 1]
    # The first of two endpoints keeps its connection, the other one loses its own each time.
    assert ideal([Arrival(0, 10.0), *(Arrival(at, 1.0) for at in range(1, 5))], 2) == [1, 0, 0, 0, 0]
