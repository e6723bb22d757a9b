"""The policies that Online Boutique publishes, on the running shop: its call graph works, and nothing else.

Both are applied as they are published. Who may call whom is written down here as the policies document it, and compared
with real connections between all pods and with what ``kmn reach`` computes.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from clusterlab import Census, make_namespace, running
from published import APPS
from traffic import Answer, Question, ask

from kmn import Cluster
from kmn.cli.policy import judge_of
from kmn.k8s.objects import Key, labels, name_of, namespace_of
from kmn.machine import Machine
from kmn.policy.reach import reach

pytestmark = pytest.mark.packet

SHOP = APPS / "online-boutique/release/kubernetes-manifests.yaml"
POLICIES = APPS / "online-boutique/kustomize/components/network-policies"
EVERYBODY = "everybody"
# The container port of each app, and who may call it. The load generator is called by nobody.
CALLS = {
    ("adservice", 9555): {"frontend"},
    ("cartservice", 7070): {"frontend", "checkoutservice"},
    ("checkoutservice", 5050): {"frontend"},
    ("currencyservice", 7000): {"frontend", "checkoutservice"},
    ("emailservice", 8080): {"checkoutservice"},
    ("frontend", 8080): {EVERYBODY},
    ("paymentservice", 50051): {"checkoutservice"},
    ("productcatalogservice", 3550): {"frontend", "checkoutservice", "recommendationservice"},
    ("recommendationservice", 8080): {"frontend"},
    ("redis-cart", 6379): {"cartservice"},
    ("shippingservice", 50051): {"frontend", "checkoutservice"},
}
PORTS = sorted({port for _, port in CALLS})


class Shop:
    """The running shop: pods by app; those of other namespaces by their names."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.census = Census(cluster)
        machines = {machine.name: machine for machine in self.census.pods}
        self.pods: dict[str, Machine] = {}
        self.strangers: dict[str, Machine] = {}
        for pod in self.census.objects:
            name = f"{namespace_of(pod)}/{name_of(pod)}"
            if namespace_of(pod) == "boutique":
                self.pods[labels(pod)["app"]] = machines[name]
            else:
                self.strangers[name] = machines[name]

    @property
    def callers(self) -> dict[str, Machine]:
        return self.pods | self.strangers

    def may(self, caller: str, app: str, port: int) -> bool:
        """As the policies document it: the frontend takes connections to all of its ports, others to one."""
        if caller == app or app == "frontend":
            return True
        return caller in CALLS.get((app, port), ())


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    for path in (SHOP, POLICIES):
        if not path.exists():
            pytest.skip(f"{path} is not here: Online Boutique's policies were not tried")
    with running("bout") as cluster:
        make_namespace(cluster, "boutique")
        cluster.apply(SHOP, namespace="boutique")
        stranger = {"metadata": {"name": "stranger"}, "spec": {"containers": [{"name": "c", "image": "c"}]}}
        cluster.apply({"apiVersion": "v1", "kind": "Pod", **stranger})
        cluster.wait_ready()
        files = sorted(POLICIES.glob("network-policy-*.yaml"))
        assert len(files) == 13
        cluster.apply(*files, namespace="boutique")
        cluster.wait_ready()
        yield Shop(cluster)


def _wrong(expected: dict[Question, bool]) -> list[str]:
    """One line for each question whose fate is another one: answered or refused by a pod, or lost in silence.

    What should be lost is waited for only as long as the rest can take on a busy machine.
    """
    found = []
    for allowed, timeout in ((True, 10.0), (False, 2.0)):
        questions = [question for question, expects in expected.items() if expects is allowed]
        assert questions
        for question, answer in zip(questions, ask(questions, timeout), strict=True):
            if isinstance(answer, Answer | ConnectionRefusedError) is not allowed:
                found.append(f"{question}: {answer!r}, should be {'allowed' if allowed else 'denied'}")
    return found


def test_every_pair_of_pods_on_every_port(shop: Shop) -> None:
    """Ports on which an app does not listen, too: where they are allowed, the pod refuses."""
    assert shop.pods.keys() == {app for app, _ in CALLS} | {"loadgenerator"}
    assert "default/stranger" in shop.strangers
    expected = {
        Question(machine, pod.ip, port): shop.may(caller, app, port)
        for caller, machine in shop.callers.items()
        for app, pod in shop.pods.items()
        for port in PORTS
    }
    assert _wrong(expected) == []


def test_every_service_from_every_pod(shop: Shop) -> None:
    """Virtual addresses lead to no more than the pods behind them do."""
    ports = [port for port in shop.census.service_ports() if port.namespace == "boutique"]
    assert {port.name for port in ports} == {app for app, _ in CALLS} | {"frontend-external"}
    expected = {}
    for port in ports:
        (target,) = port.targets
        app = port.name.removesuffix("-external")
        for caller, machine in shop.callers.items():
            expected[Question(machine, port.address, port.port)] = shop.may(caller, app, target)
    assert _wrong(expected) == []


def test_the_call_graph_is_what_reach_computes(shop: Shop) -> None:
    judge = judge_of(shop.cluster.client)
    for port in PORTS:
        computed = reach(judge, "TCP", port)
        places = {key: place for place, key in enumerate(computed.pods)}
        for caller, machine in shop.callers.items():
            for app, pod in shop.pods.items():
                ends = (places[Key(*machine.name.split("/"))], places[Key(*pod.name.split("/"))])
                assert computed.may(*ends) == shop.may(caller, app, port), f"{caller} -> {app}, {port}/TCP"
