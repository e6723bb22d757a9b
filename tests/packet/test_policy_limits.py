"""More rules than one flow can be part of, on real switches: all of them hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

import pytest
from controller_lab import Lab, lab

from controller.features.policy import RULES_OF_A_FLOW
from controller.megaflows import Purger
from kmn.k8s.objects import Object

pytestmark = pytest.mark.packet

PORT = 8080
NAMED = f"tcp,tp_dst={PORT} actions=conjunction"


@pytest.fixture(scope="module")
def net() -> Iterator[Lab]:
    """Pods a, b and d on n1, c on n2; all answer on port 8080."""
    with lab() as made:
        made.remember_machines(serviceCIDR="10.96.0.0/12")
        made.remember("namespaces", {"kind": "Namespace", "metadata": {"name": "default"}})
        for name, node, number in (("a", made.n1, 2), ("b", made.n1, 3), ("d", made.n1, 4), ("c", made.n2, 2)):
            made.remember("pods", made.pod(name, node, number).object)
        made.controlled()
        for place in made.places.values():
            made.servers += place.serve(PORT, made.stop_servers)
        yield made


def policy(*clients: str) -> Object:
    """About all pods: a rule for each client that names the port."""
    rules = [{"from": [{"ipBlock": {"cidr": f"{client}/32"}}], "ports": [{"port": PORT}]} for client in clients]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "many", "namespace": "default"},
        "spec": {"podSelector": {}, "ingress": rules},
    }


def sharing(net: Lab) -> list[tuple[int, int]]:
    """Priority of each flow of the port on n1, and how many rules it is part of."""
    flows = [line for line in net.n1.bridge.flows() if NAMED in line]
    return sorted((int(line.split("priority=")[1].split(",")[0]), line.count("conjunction(")) for line in flows)


def test_more_rules_name_a_port_than_fit_a_message(net: Lab) -> None:
    """The first and the last rule allow each a client; one that no rule names is denied. No flow is left afterwards."""
    a, b, c, d = (net.places[name] for name in "abcd")
    strangers = [str(IPv4Address("198.18.0.0") + number) for number in range(RULES_OF_A_FLOW + 10)]
    net.apply("networkpolicies", policy(c.address, *strangers, b.address))
    assert sharing(net) == [(100, RULES_OF_A_FLOW), (101, 12)]
    assert b.tcp(a.address, PORT) == ("a", b.address)
    assert c.tcp(a.address, PORT) == ("a", c.address)
    with pytest.raises(TimeoutError):
        d.tcp(a.address, PORT)
    net.apply("networkpolicies", policy(b.address))
    assert sharing(net) == [(100, 1)]
    with pytest.raises(TimeoutError):
        c.tcp(a.address, PORT)
    assert net.controller is not None
    net.wait("networkpolicies", net.delete("networkpolicies", "many", net.controller))
    assert sharing(net) == []
    assert d.tcp(a.address, PORT) == ("a", d.address)


def test_a_controller_that_starts_again_finds_them(net: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read back of such flows is what was sent: nothing is sent again. Megaflows are purged nevertheless, as
    the last controller may not have come so far."""
    strangers = [str(IPv4Address("198.18.0.0") + number) for number in range(RULES_OF_A_FLOW + 10)]
    net.apply("networkpolicies", policy(*strangers))
    assert net.controller is not None
    net.controller.stop()
    purged: set[str] = set()
    purge = Purger.purge

    def recorded(self: Purger, bridge: str, done: Callable[[], None]) -> None:
        purged.add(bridge)
        purge(self, bridge, done)

    monkeypatch.setattr(Purger, "purge", recorded)
    again = net.controlled()
    assert sharing(net) == [(100, RULES_OF_A_FLOW), (101, 10)]
    assert again.synchronizer.counters.messages == 0
    assert purged == set(net.bridges)
