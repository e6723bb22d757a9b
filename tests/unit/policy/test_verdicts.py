"""Who decided, and what is missing: verdicts in words."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from test_policy_flows import CLIENTS, SERVER, pod, policy

from kmn.k8s.objects import Key, Object, key_of
from kmn.policy.model import network_policy
from kmn.policy.selection import Selection, member_of
from kmn.policy.verdicts import Judge, Verdict


def verdict(*objects: Object, source: str = "c", port: int = 80) -> Verdict:
    """Of a connection from pod or address ``source`` to pod ``s``."""
    selection = Selection()
    selection.set_namespace("x", {"team": "x"})
    for obj in (pod("s", 1, 2, app="web"), pod("c", 2, 2, app="client"), pod("o", 2, 3, app="other")):
        selection.set_member(key_of(obj), member_of(obj))
    judge = Judge(selection, map(network_policy, objects))
    client = selection.members.get(Key("x", source)) or ip_address(source)
    return judge.judge(client, selection.members[Key("x", "s")], "TCP", port)


WEB = policy("web", **SERVER, ingress=[{"from": [CLIENTS], "ports": [{"port": 80}, {"port": "web"}]}])
DENY = policy("deny", podSelector={}, policyTypes=["Ingress", "Egress"])


@pytest.mark.parametrize(
    ("objects", "source", "port", "egress", "ingress"),
    [
        pytest.param([], "c", 80, "no policy", "no policy", id="none"),
        pytest.param([WEB], "c", 80, "no policy", "NetworkPolicy x/web ingress[0]", id="allowed"),
        pytest.param([WEB], "o", 80, "no policy", "default deny of policy x/web", id="other peer"),
        pytest.param([WEB], "c", 81, "no policy", "default deny of policy x/web", id="other port"),
        pytest.param([WEB], "203.0.113.1", 80, "no policy", "default deny of policy x/web", id="from outside"),
        pytest.param([DENY], "c", 80, "default deny of policy x/deny", "default deny of policy x/deny", id="both ends"),
        pytest.param([WEB, DENY], "o", 80, "default deny of policy x/deny", "default deny of policies x/deny, x/web",
                     id="several policies"),
    ],
)  # fmt: skip
def test_reasons(objects: list[Object], source: str, port: int, egress: str, ingress: str) -> None:
    found = verdict(*objects, source=source, port=port)
    assert (found.egress.reason, found.ingress.reason) == (egress, ingress)
    assert found.allowed == (not any("deny" in reason for reason in (egress, ingress)))


def test_rules_that_do_not_match_say_for_whom_they_are() -> None:
    (peers,) = verdict(WEB, source="o").ingress.misses
    assert str(peers) == "NetworkPolicy x/web ingress[0]: only from pods app=client of namespace x"
    (ports,) = verdict(WEB, port=81).ingress.misses
    assert str(ports) == "NetworkPolicy x/web ingress[0]: only to ports 80/TCP, web/TCP"
