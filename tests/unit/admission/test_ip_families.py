"""IP families of Services: what they are when nobody says, what is refused, what may change.

The tables are those of https://kubernetes.io/docs/concepts/services-networking/dual-stack/; the words of errors are
kube-apiserver's.
"""

from __future__ import annotations

import copy
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from kmn.apiserver.admission import ClusterAdmission
from kmn.cluster_spec import ClusterSpec
from kmn.k8s.errors import Invalid
from kmn.k8s.objects import Object
from kmn.k8s.resources import SERVICES

FOUR, SIX = ip_network("10.96.0.0/12"), ip_network("fd00:10:96::/112")


def cluster(family: str = "dual", **spec: Any) -> ClusterAdmission:
    fields = {"ipFamily": family, **spec}
    return ClusterAdmission(
        ClusterSpec.parse({"apiVersion": "kmn.io/v1", "kind": "Cluster", "metadata": {"name": "a"}, "spec": fields})
    )


def service(**spec: Any) -> Object:
    fields = {"ports": [{"port": 80}], "selector": {"app": "a"}, **copy.deepcopy(spec)}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "default"}, "spec": fields}


def create(admission: ClusterAdmission, **spec: Any) -> Object:
    return admission.admit("CREATE", SERVICES, service(**spec), None, trusted=False)[0]


def update(admission: ClusterAdmission, old: Object, **spec: Any) -> Object:
    """What a client sends that got the object and changed fields; None: left out."""
    new = copy.deepcopy(old)
    for field, value in spec.items():
        new["spec"].pop(field, None)
        if value is not None:
            new["spec"][field] = value
    return admission.admit("UPDATE", SERVICES, new, old, trusted=False)[0]


def families(obj: Object) -> tuple[str, list[str]]:
    """Policy and families; addresses are of these, each in its network."""
    spec = obj["spec"]
    if spec["clusterIP"] != "None":
        assert spec["clusterIP"] == spec["clusterIPs"][0]
        networks = [FOUR if ":" not in ip else SIX for ip in spec["clusterIPs"]]
        assert all(ip_address(ip) in net for ip, net in zip(spec["clusterIPs"], networks, strict=True))
        assert [f"IPv{net.version}" for net in networks] == spec["ipFamilies"]
    else:
        assert spec["clusterIPs"] == ["None"]
    return spec["ipFamilyPolicy"], spec["ipFamilies"]


SINGLE, PREFER, REQUIRE = "SingleStack", "PreferDualStack", "RequireDualStack"
BOTH = ["IPv4", "IPv6"]


@pytest.mark.parametrize(
    ("spec", "dual", "ipv4"),
    [
        ({}, (SINGLE, ["IPv4"]), (SINGLE, ["IPv4"])),
        ({"ipFamilyPolicy": PREFER}, (PREFER, BOTH), (PREFER, ["IPv4"])),
        ({"ipFamilyPolicy": REQUIRE}, (REQUIRE, BOTH), None),
        ({"ipFamilyPolicy": PREFER, "ipFamilies": ["IPv6"]}, (PREFER, BOTH[::-1]), None),
        ({"ipFamilies": ["IPv6"]}, (SINGLE, ["IPv6"]), None),
        ({"ipFamilies": ["IPv6", "IPv4"]}, (REQUIRE, BOTH[::-1]), None),
        ({"clusterIP": "fd00:10:96::99"}, (SINGLE, ["IPv6"]), None),
        ({"clusterIPs": ["fd00:10:96::99", "10.96.0.99"]}, (REQUIRE, BOTH[::-1]), None),
        ({"clusterIP": "fd00:10:96::99", "ipFamilyPolicy": PREFER}, (PREFER, BOTH[::-1]), None),
        ({"clusterIP": "None"}, (SINGLE, ["IPv4"]), (SINGLE, ["IPv4"])),
        ({"clusterIP": "None", "ipFamilyPolicy": PREFER}, (PREFER, BOTH), (PREFER, ["IPv4"])),
        # Whoever writes the endpoints decides: any families, in any cluster.
        ({"clusterIP": "None", "selector": None}, (REQUIRE, BOTH), (REQUIRE, BOTH)),
        ({"clusterIP": "None", "selector": None, "ipFamilies": ["IPv6"]}, (REQUIRE, BOTH[::-1]), (REQUIRE, BOTH[::-1])),
        (
            {"clusterIP": "None", "selector": None, "ipFamilyPolicy": SINGLE, "ipFamilies": ["IPv6"]},
            (SINGLE, ["IPv6"]),
            (SINGLE, ["IPv6"]),
        ),
    ],
)
def test_what_a_new_service_gets(
    spec: dict[str, Any], dual: tuple[str, list[str]], ipv4: tuple[str, list[str]] | None
) -> None:
    assert families(create(cluster(), **spec)) == dual
    if ipv4 is None:
        with pytest.raises(Invalid, match="not configured"):
            create(cluster("ipv4"), **spec)
    else:
        assert families(create(cluster("ipv4"), **spec)) == ipv4


NEW_ERRORS = [
    ({"ipFamilies": ["IPv4", "IPv4"]}, 'spec.ipFamilies[1]: "IPv4" is used twice'),
    ({"ipFamilies": ["IPv5"]}, "spec.ipFamilies[0]: must be one of IPv4, IPv6"),
    ({"ipFamilyPolicy": "Dual"}, "spec.ipFamilyPolicy: must be one of SingleStack"),
    (
        {"ipFamilyPolicy": SINGLE, "ipFamilies": BOTH},
        "spec.ipFamilyPolicy: must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified",
    ),
    (
        {"ipFamilyPolicy": SINGLE, "clusterIPs": ["10.96.0.9", "fd00:10:96::9"]},
        "spec.ipFamilyPolicy: must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified",
    ),
    ({"clusterIPs": ["10.96.0.9", "10.96.0.8"]}, "may specify no more than one IP for each IP family"),
    ({"clusterIPs": ["10.96.0.9", "fd00:10:96::9", "10.96.0.8"]}, "may only hold up to 2 values"),
    ({"clusterIPs": ["None", "fd00:10:96::9"]}, "'None' must be the first and only value"),
    (
        {"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ipFamilies": ["IPv6"]},
        "spec.clusterIPs[0]: expected an IPv6 value as indicated by `ipFamilies[0]`",
    ),
    (
        {"clusterIPs": ["10.96.0.9", "fd00:9::9"]},
        "spec.clusterIPs[1]: fd00:9::9 is not in serviceCIDR fd00:10:96::/112",
    ),
    (
        {"type": "ExternalName", "externalName": "a.example", "ipFamilies": ["IPv4"]},
        "spec.ipFamilies: may not be given",
    ),
]


@pytest.mark.parametrize(("spec", "told"), NEW_ERRORS)
def test_what_is_refused(spec: dict[str, Any], told: str) -> None:
    with pytest.raises(Invalid) as refused:
        create(cluster(), **spec)
    assert told in str(refused.value)


def test_a_cluster_of_ipv4_says_what_it_has_not() -> None:
    for spec, told in (
        ({"ipFamilyPolicy": REQUIRE}, "spec.ipFamilyPolicy: this cluster is not configured for dual-stack services"),
        ({"ipFamilies": ["IPv6"]}, "spec.ipFamilies[0]: not configured on this cluster"),
        ({"clusterIP": "fd00:10:96::9"}, "spec.clusterIPs[0]: IPv6 is not configured on this cluster"),
    ):
        with pytest.raises(Invalid) as refused:
            create(cluster("ipv4"), **spec)
        assert told in str(refused.value)


def test_the_policy_alone_makes_a_service_dual_stack_and_single_stack_again() -> None:
    admission = cluster()
    single = create(admission)
    dual = update(admission, single, ipFamilyPolicy=PREFER)
    assert families(dual) == (PREFER, BOTH)
    assert dual["spec"]["clusterIP"] == single["spec"]["clusterIP"]
    second = dual["spec"]["clusterIPs"][1]
    again = update(admission, dual, ipFamilyPolicy=SINGLE)
    assert again["spec"] == single["spec"]
    taken = create(admission, clusterIP=second)
    assert taken["spec"]["clusterIPs"] == [second], "it is free again"


def test_addresses_stay_when_an_update_leaves_them_out() -> None:
    admission = cluster()
    dual = create(admission, ipFamilyPolicy=PREFER)
    again = update(admission, dual, clusterIP=None, clusterIPs=None, ports=[{"port": 81}])
    assert again["spec"]["clusterIPs"] == dual["spec"]["clusterIPs"]
    admission.released(SERVICES, again)
    assert families(create(admission, clusterIPs=dual["spec"]["clusterIPs"])) == (REQUIRE, BOTH)


def test_a_service_stays_as_it_is_when_its_cluster_becomes_dual_stack() -> None:
    """PreferDualStack is looked at when the Service is made, and when its families change."""
    old = create(cluster("ipv4"), ipFamilyPolicy=PREFER)
    assert families(update(cluster(), old, ports=[{"port": 81}])) == (PREFER, ["IPv4"])
    assert families(update(cluster(), old, ipFamilies=BOTH)) == (PREFER, BOTH)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"ipFamilies": ["IPv6", "IPv4"]},
            "spec.clusterIPs[0]: expected an IPv6 value as indicated by `ipFamilies[0]`",
        ),
        ({"ipFamilies": ["IPv6", "IPv4"], "clusterIPs": 3}, "spec.ipFamilies[0]: may not change once set"),
        ({"ipFamilies": ["IPv4"]}, "spec.ipFamilyPolicy: must be 'SingleStack' to release the secondary IP family"),
        ({"ipFamilies": ["IPv4"], "clusterIPs": 1}, "must be 'SingleStack' to release the secondary cluster IP"),
        ({"clusterIPs": 2}, "spec.clusterIPs[1]: may not change once set"),
    ],
)
def test_what_may_not_change(change: dict[str, Any], told: str) -> None:
    admission = cluster()
    old = create(admission, ipFamilyPolicy=REQUIRE)
    first, second = old["spec"]["clusterIPs"]
    lists: dict[int, list[str]] = {1: [first], 2: [first, "fd00:10:96::9"], 3: [second, first]}
    if "clusterIPs" in change:
        addresses = lists[change["clusterIPs"]]
        change = {**change, "clusterIPs": addresses, "clusterIP": addresses[0]}
    with pytest.raises(Invalid) as refused:
        update(admission, old, **change)
    assert told in str(refused.value)


def test_a_headless_service_may_change_its_first_family() -> None:
    admission = cluster()
    old = create(admission, clusterIP="None")
    assert families(update(admission, old, ipFamilies=["IPv6"])) == (SINGLE, ["IPv6"])


def test_a_name_outside_has_no_families() -> None:
    admission = cluster()
    dual = create(admission, ipFamilyPolicy=PREFER)
    external = update(admission, dual, type="ExternalName", externalName="a.example", ports=None)
    assert not {"clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"} & external["spec"].keys()
    assert create(admission, clusterIPs=dual["spec"]["clusterIPs"]), "its addresses are free"


def test_each_network_is_used_up_by_itself() -> None:
    admission = cluster(serviceCIDR="10.96.0.0/27,fd00:10:96::/123")
    for number in range(30):
        obj = service(ipFamilies=["IPv6"])
        obj["metadata"]["name"] = f"s{number}"
        admission.admit("CREATE", SERVICES, obj, None, trusted=False)
    with pytest.raises(Invalid, match=r"spec.clusterIPs\[1\]: no address is left in serviceCIDR fd00:10:96::/123"):
        create(admission, ipFamilyPolicy=REQUIRE)
    assert create(admission)["spec"]["ipFamilies"] == ["IPv4"]
