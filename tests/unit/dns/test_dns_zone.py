"""The zone of a small cluster, question by question, as dig would print it."""

from __future__ import annotations

from typing import Any

import pytest

from kmn.dns.answer import Answer, answer
from kmn.dns.config import DnsConfig
from kmn.dns.records import RRType
from kmn.dns.zone import Zone
from kmn.k8s.objects import Key, Object
from kmn.k8s.resources import ENDPOINTSLICES, NAMESPACES, PODS, SERVICES


def service(name: str, namespace: str = "shop", **spec: Any) -> Object:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


def endpoint_slice(service: str, *endpoints: dict[str, Any], kind: str = "IPv4", ports: Any = ()) -> Object:
    return {
        "metadata": {"namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
        "addressType": kind,
        "ports": list(ports),
        "endpoints": list(endpoints),
    }


def endpoint(address: str, hostname: str | None = None, ready: bool | None = True) -> dict[str, Any]:
    return {
        "addresses": [address],
        "conditions": {} if ready is None else {"ready": ready},
        **({"hostname": hostname} if hostname else {}),
    }


HTTP = {"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}
UNNAMED = {"protocol": "TCP", "port": 81}
PG = {"name": "pg", "protocol": "TCP", "port": 5432}
RAFT = {"name": "raft", "protocol": "UDP", "port": 7000}

SERVICES_OF_THE_ZONE = [
    service("kube-dns", "kube-system", clusterIP="10.96.0.10", ports=[{"name": "dns", "protocol": "UDP", "port": 53}]),
    service("web", clusterIP="10.96.3.7", ports=[HTTP, UNNAMED]),
    service("dual", clusterIP="10.96.3.8", clusterIPs=["10.96.3.8", "fd00:10:96::8"], ports=[HTTP]),
    service("pending", ports=[HTTP]),
    service("db", clusterIP="None", ports=[PG, RAFT]),
    service("others", clusterIP="None", selector={"app": "db"}),
    service("empty", clusterIP="None", ports=[PG]),
    service("six", clusterIP="None"),
    service("ext", type="ExternalName", externalName="WWW.example.com"),
    service("alias", type="ExternalName", externalName="web.shop.svc.cluster.local."),
    service("loop", type="ExternalName", externalName="loop.shop.svc.cluster.local"),
    service("lost", type="ExternalName", externalName="nowhere.shop.svc.cluster.local"),
]
SLICES_OF_THE_ZONE = {
    "web-a": endpoint_slice("web", endpoint("10.244.1.4"), ports=[{"name": "http", "port": 8080}]),
    "db-a": endpoint_slice("db", endpoint("10.244.1.10", "db-0"), endpoint("10.244.2.11", "db-1"), ports=[PG, RAFT]),
    "db-b": endpoint_slice("db", endpoint("10.244.1.12", "db-2", ready=False), endpoint("10.244.1.13", ready=None),
                           ports=[PG]),
    "others-a": endpoint_slice("others", endpoint("10.244.1.10"), endpoint("10.244.1.20"), endpoint("172.18.0.2")),
    "empty-a": endpoint_slice("empty", endpoint("10.244.1.12", ready=False), ports=[PG]),
    "six-a": endpoint_slice("six", endpoint("fd00:10:244::7"), kind="IPv6"),
    "names-a": endpoint_slice("others", endpoint("example.com"), kind="FQDN"),
    "orphan-a": endpoint_slice("deleted", endpoint("10.244.1.21")),
}  # fmt: skip


def small_zone(config: DnsConfig | None = None) -> Zone:
    zone = Zone(config, clock=lambda: 42.0)
    zone.update(NAMESPACES, Key("", "bare"), {"metadata": {"name": "bare"}})
    for obj in SERVICES_OF_THE_ZONE:
        zone.update(SERVICES, Key(obj["metadata"]["namespace"], obj["metadata"]["name"]), obj)
    for name, obj in SLICES_OF_THE_ZONE.items():
        zone.update(ENDPOINTSLICES, Key("shop", name), obj)
    pod = {"metadata": {"name": "p"}, "status": {"podIPs": [{"ip": "10.244.1.4"}]}}
    zone.update(PODS, Key("shop", "p"), pod)
    return zone


def render(found: Answer | None) -> list[str]:
    """A reply as lines: the rcode unless NOERROR, the answers, ``nodata`` for none."""
    if found is None:
        return ["forward"]
    lines = [str(record).replace(".svc.cluster.local.", "…") for record in found.answers]
    if found.rcode:
        lines.insert(0, found.rcode.name)
    elif not found.answers:
        lines.append("nodata")
    if found.chase:
        lines.append(f"chase {found.chase}")
    return lines


# `…` stands for .svc.cluster.local. in questions and answers.
TABLE = """
    dns-version.cluster.local.          TXT    dns-version.cluster.local. 5 IN TXT "1.1.0"
    cluster.local.                      SOA    cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 42 7200 1800 86400 5
    cluster.local.                      NS     cluster.local. 5 IN NS ns.dns.cluster.local.
    ns.dns.cluster.local.               A      ns.dns.cluster.local. 5 IN A 10.96.0.10
    cluster.local.                      A      nodata
    svc.cluster.local.                  A      nodata
    pod.cluster.local.                  A      nodata
    dns.cluster.local.                  A      nodata
    shop…                               A      nodata
    bare…                               A      nodata
    nowhere…                            A      NXDOMAIN
    other.cluster.local.                A      NXDOMAIN
    local.                              A      forward
    notcluster.local.                   A      forward

    ; Services with addresses
    web.shop…                           A      web.shop… 5 IN A 10.96.3.7
    WEB.Shop…                           A      web.shop… 5 IN A 10.96.3.7
    web.shop…                           AAAA   nodata
    web.shop…                           TXT    nodata
    web.bare…                           A      NXDOMAIN
    *.shop…                             A      NXDOMAIN
    web\\.shop…                         A      NXDOMAIN
    pending.shop…                       A      NXDOMAIN
    _http._tcp.web.shop…                SRV    _http._tcp.web.shop… 5 IN SRV 0 100 80 web.shop…
    _http._tcp.web.shop…                A      nodata
    _tcp.web.shop…                      SRV    nodata
    _udp.web.shop…                      SRV    NXDOMAIN
    _http._udp.web.shop…                SRV    NXDOMAIN
    _._tcp.web.shop…                    SRV    NXDOMAIN
    web.shop…                           SRV    web.shop… 5 IN SRV 0 100 80 web.shop… | web.shop… 5 IN SRV 0 100 81 web.shop…
    10-244-1-4.web.shop…                A      10-244-1-4.web.shop… 5 IN A 10.244.1.4
    dual.shop…                          A      dual.shop… 5 IN A 10.96.3.8
    dual.shop…                          AAAA   dual.shop… 5 IN AAAA fd00:10:96::8

    ; headless
    db.shop…                            A      db.shop… 5 IN A 10.244.1.10 | db.shop… 5 IN A 10.244.2.11 | db.shop… 5 IN A 10.244.1.13
    db-0.db.shop…                       A      db-0.db.shop… 5 IN A 10.244.1.10
    db-2.db.shop…                       A      NXDOMAIN
    10-244-1-13.db.shop…                A      10-244-1-13.db.shop… 5 IN A 10.244.1.13
    10-244-1-10.db.shop…                A      NXDOMAIN
    _raft._udp.db.shop…                 SRV    _raft._udp.db.shop… 5 IN SRV 0 100 7000 db-0.db.shop… | _raft._udp.db.shop… 5 IN SRV 0 100 7000 db-1.db.shop…
    _pg._tcp.db-0.db.shop…              SRV    NXDOMAIN
    empty.shop…                         A      NXDOMAIN
    six.shop…                           A      nodata
    six.shop…                           AAAA   six.shop… 5 IN AAAA fd00:10:244::7

    ; other names
    ext.shop…                           CNAME  ext.shop… 5 IN CNAME www.example.com.
    ext.shop…                           A      ext.shop… 5 IN CNAME www.example.com. | chase www.example.com.
    x.ext.shop…                         A      NXDOMAIN
    alias.shop…                         A      alias.shop… 5 IN CNAME web.shop… | web.shop… 5 IN A 10.96.3.7
    loop.shop…                          A      SERVFAIL | loop.shop… 5 IN CNAME loop.shop…
    lost.shop…                          A      NXDOMAIN | lost.shop… 5 IN CNAME nowhere.shop…

    ; pods
    10-244-1-4.shop.pod.cluster.local.  A      10-244-1-4.shop.pod.cluster.local. 5 IN A 10.244.1.4
    10-9-9-9.shop.pod.cluster.local.    A      10-9-9-9.shop.pod.cluster.local. 5 IN A 10.9.9.9
    10-9-9-999.shop.pod.cluster.local.  A      NXDOMAIN
    p.shop.pod.cluster.local.           A      NXDOMAIN
    10-9-9-9.nope.pod.cluster.local.    A      NXDOMAIN
    fd00--7.shop.pod.cluster.local.     AAAA   fd00--7.shop.pod.cluster.local. 5 IN AAAA fd00::7

    ; backwards
    7.3.96.10.in-addr.arpa.             PTR    7.3.96.10.in-addr.arpa. 5 IN PTR web.shop…
    10.1.244.10.in-addr.arpa.           PTR    10.1.244.10.in-addr.arpa. 5 IN PTR db-0.db.shop…
    20.1.244.10.in-addr.arpa.           PTR    20.1.244.10.in-addr.arpa. 5 IN PTR 10-244-1-20.others.shop…
    2.0.18.172.in-addr.arpa.            PTR    2.0.18.172.in-addr.arpa. 5 IN PTR 172-18-0-2.others.shop…
    7.3.96.10.in-addr.arpa.             A      nodata
    3.96.10.in-addr.arpa.               PTR    nodata
    9.3.96.10.in-addr.arpa.             PTR    NXDOMAIN
    x.7.3.96.10.in-addr.arpa.           PTR    NXDOMAIN
    12.1.244.10.in-addr.arpa.           PTR    NXDOMAIN
    21.1.244.10.in-addr.arpa.           PTR    NXDOMAIN
    3.0.18.172.in-addr.arpa.            PTR    forward
    10.in-addr.arpa.                    NS     forward
    1.0.0.127.in-addr.arpa.             PTR    forward
    example.com.                        A      forward
"""  # noqa: E501 - a record a line
LINES = [line.split(maxsplit=2) for line in TABLE.splitlines() if line.strip() and not line.strip().startswith(";")]


@pytest.mark.parametrize(("name", "kind", "wanted"), LINES, ids=[f"{name} {kind}" for name, kind, _ in LINES])
def test_zone(name: str, kind: str, wanted: str) -> None:
    found = answer(small_zone(), name.replace("…", ".svc.cluster.local."), RRType[kind])
    assert render(found) == wanted.split(" | ")


def test_negative_answers_carry_the_start_of_authority() -> None:
    zone = small_zone()
    for name, apex in {
        "nope.shop.svc.cluster.local.": "cluster.local.",
        "shop.svc.cluster.local.": "cluster.local.",
        "9.3.96.10.in-addr.arpa.": "96.10.in-addr.arpa.",  # 10.96.0.0/12 is cut at its octet
        "1.0.111.10.in-addr.arpa.": "111.10.in-addr.arpa.",
        "9.9.244.10.in-addr.arpa.": "244.10.in-addr.arpa.",
    }.items():
        found = answer(zone, name, RRType.PTR)
        assert found is not None
        assert [(record.name, record.type) for record in found.authority] == [(apex, RRType.SOA)]
        start = answer(zone, apex, RRType.SOA)
        assert start is not None
        assert start.answers == found.authority


def test_srv_brings_the_addresses_along() -> None:
    found = answer(small_zone(), "_pg._tcp.db.shop.svc.cluster.local.", RRType.SRV)
    assert found is not None
    assert [(record.name.split(".")[0], record.data) for record in found.additional] == [
        ("db-0", "10.244.1.10"),
        ("db-1", "10.244.2.11"),
        ("10-244-1-13", "10.244.1.13"),
    ]


def test_any_gives_all_there_is() -> None:
    found = answer(small_zone(), "web.shop.svc.cluster.local.", RRType.ANY)
    assert found is not None
    assert {record.type for record in found.answers} == {RRType.A, RRType.SRV}


def test_a_long_chain_ends() -> None:
    zone = small_zone()
    for n in range(20):
        target = f"c{n + 1}.shop.svc.cluster.local"
        zone.update(SERVICES, Key("shop", f"c{n}"), service(f"c{n}", type="ExternalName", externalName=target))
    found = answer(zone, "c0.shop.svc.cluster.local.", RRType.A)
    assert found is not None
    assert found.rcode.name == "SERVFAIL"


def test_other_domain() -> None:
    zone = small_zone(DnsConfig(domain="k8s.example.org."))
    assert render(answer(zone, "web.shop.svc.k8s.example.org.", RRType.A))[0].endswith("10.96.3.7")
    assert render(answer(zone, "web.shop.svc.cluster.local.", RRType.A)) == ["forward"]
    assert render(answer(zone, "7.3.96.10.in-addr.arpa.", RRType.PTR))[0].endswith("web.shop.svc.k8s.example.org.")


@pytest.mark.parametrize(
    ("mode", "known", "unknown"),
    [("insecure", "NOERROR", "NOERROR"), ("verified", "NOERROR", "NXDOMAIN"), ("disabled", "NXDOMAIN", "NXDOMAIN")],
)
def test_pod_records(mode: Any, known: str, unknown: str) -> None:
    zone = small_zone(DnsConfig(pod_records=mode))
    for label, rcode in (("10-244-1-4", known), ("10-9-9-9", unknown)):
        found = answer(zone, f"{label}.shop.pod.cluster.local.", RRType.A)
        assert found is not None
        assert found.rcode.name == rcode


def test_verified_pods_come_and_go() -> None:
    zone = small_zone(DnsConfig(pod_records="verified"))
    name = "10-244-1-4.shop.pod.cluster.local."
    done = {"metadata": {"name": "p"}, "status": {"phase": "Succeeded", "podIPs": [{"ip": "10.244.1.4"}]}}
    zone.update(PODS, Key("shop", "p"), done)
    assert render(answer(zone, name, RRType.A)) == ["NXDOMAIN"]
    zone.update(PODS, Key("shop", "p"), None)
    assert render(answer(zone, name, RRType.A)) == ["NXDOMAIN"]


def test_everything_can_be_taken_back() -> None:
    """After all objects went, in any order, the indices are empty: nothing is kept of what is gone."""
    zone = small_zone(DnsConfig(pod_records="verified"))
    indices = {name: value for name, value in vars(zone).items() if isinstance(value, dict | set)}
    assert {"_services", "_slices", "_by_ip", "_by_endpoint", "_pods_at", "_namespaces"} <= indices.keys()
    assert answer(zone, "web.shop.svc.cluster.local.", RRType.A)
    for obj in SERVICES_OF_THE_ZONE:
        zone.update(SERVICES, Key(obj["metadata"]["namespace"], obj["metadata"]["name"]), None)
    for name in SLICES_OF_THE_ZONE:
        zone.update(ENDPOINTSLICES, Key("shop", name), None)
    zone.update(NAMESPACES, Key("", "bare"), None)
    zone.update(PODS, Key("shop", "p"), None)
    assert {name: index for name, index in indices.items() if index} == {}


def test_changes_that_change_no_answer_keep_the_version() -> None:
    zone = small_zone()
    before = zone.version
    obj = SERVICES_OF_THE_ZONE[1]
    zone.update(SERVICES, Key("shop", "web"), {**obj, "status": {"loadBalancer": {}}})
    zone.update(PODS, Key("shop", "p"), None)
    zone.update(NAMESPACES, Key("", "bare"), {"metadata": {"name": "bare", "labels": {"a": "b"}}})
    zone.update(SERVICES, Key("shop", "never-was"), None)
    assert zone.version == before
    zone.update(SERVICES, Key("shop", "web"), service("web", clusterIP="10.96.3.99"))
    assert zone.version > before
    assert render(answer(zone, "7.3.96.10.in-addr.arpa.", RRType.PTR)) == ["NXDOMAIN"]


def test_a_slice_can_change_its_service() -> None:
    zone = small_zone()
    zone.update(ENDPOINTSLICES, Key("shop", "db-a"), endpoint_slice("empty", endpoint("10.244.1.10", "moved")))
    assert render(answer(zone, "db-0.db.shop.svc.cluster.local.", RRType.A)) == ["NXDOMAIN"]
    assert render(answer(zone, "10.1.244.10.in-addr.arpa.", RRType.PTR)) == [
        "10.1.244.10.in-addr.arpa. 5 IN PTR moved.empty.shop…"
    ]
