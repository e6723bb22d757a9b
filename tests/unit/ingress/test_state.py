"""What is known of the cluster, and what one controller makes of it: endpoints, certificates, addresses, problems."""

from __future__ import annotations

from typing import Any

import pytest
from ingress_objects import ingress, meta, path, rule, service_object, slice_of, tls_secret

from kmn.cluster_spec import IngressController
from kmn.ingress.backends import Endpoints, endpoints_of
from kmn.ingress.certificates import key_pair_of, self_signed
from kmn.ingress.envoy.config import Config
from kmn.ingress.manifests import ingress_objects
from kmn.ingress.model import Backend, Owner, Problem, Protocol, Upstream
from kmn.ingress.state import State
from kmn.ingress.status import report_of
from kmn.k8s.objects import Key, Object, key_of
from kmn.k8s.resources import ENDPOINTSLICES, INGRESSCLASSES, INGRESSES, PODS, SECRETS, SERVICES, Resource

NGINX = "k8s.io/ingress-nginx"
PAIR, OTHER = self_signed("a"), self_signed("b")


# --- backends


@pytest.mark.parametrize(
    ("port", "service", "slices", "wanted"),
    [
        (80, service_object("s"), [slice_of("s", "10.0.0.2", "10.0.0.1")], [("10.0.0.1", 8080), ("10.0.0.2", 8080)]),
        (80, service_object("s"), [slice_of("s", "10.0.0.1", ready=False), slice_of("s", "10.0.0.2", ready=True)],
         [("10.0.0.2", 8080)]),
        ("web", service_object("s", {"name": "web", "port": 80, "targetPort": "http"}, {"name": "b", "port": 81}),
         [slice_of("s", "10.0.0.1", port=7, port_name="web"), slice_of("s", "10.0.0.2", port=8, port_name="b")],
         [("10.0.0.1", 7)]),
        (80, service_object("s"), [slice_of("s", "fd00::1"), slice_of("s", "10.0.0.1")], [("10.0.0.1", 8080)]),
        (80, service_object("s"), [slice_of("s", "fd00::1")], [("fd00::1", 8080)]),
        (80, service_object("s"), [], []),
    ],
)  # fmt: skip
def test_ready_endpoints_of_a_port(port: Any, service: Object, slices: list[Object], wanted: list[Any]) -> None:
    assert endpoints_of(Backend("default", "s", port), service, slices) == Endpoints(tuple(wanted))


@pytest.mark.parametrize(
    ("port", "ports", "wanted"),
    [
        (80, [{"port": 80, "targetPort": 8080}, {"port": 81}], 8080),
        ("web", [{"port": 80, "name": "web", "targetPort": "named"}], 80),
        (7, [], 7),
        (7, [{"port": 80}], 7),
    ],
)
def test_an_external_name_is_an_endpoint(port: int | str, ports: list[Any], wanted: int) -> None:
    service = service_object("s", type="ExternalName", externalName="a.example.")
    service["spec"]["ports"] = ports
    found = endpoints_of(Backend("default", "s", port), service, [])
    assert found == Endpoints((("a.example", wanted),), external=True)


def test_a_port_that_an_external_name_does_not_have() -> None:
    service = service_object("s", {"port": 80}, type="ExternalName", externalName="a.example")
    assert endpoints_of(Backend("default", "s", "web"), service, []).problem == "Service default/s has no TCP port web"


def test_an_external_name_is_looked_up_with_the_clusters_dns() -> None:
    external = service_object("s", {"port": 80}, type="ExternalName", externalName="a.example")
    state = State(PAIR)
    nginx = {"metadata": {"name": "nginx"}, "spec": {"controller": NGINX}}
    things = ((INGRESSCLASSES, nginx), (INGRESSES, ingress("i", rule("a", path("/", "s")))), (SERVICES, external))
    for resource, obj in things:
        state.update(resource, key_of(obj), obj)
    view = state.view(NGINX)
    (problem,) = view.problems
    assert problem.message.endswith(
        "are answered 503: its name cannot be looked up: there is no Service kube-system/kube-dns with an address"
    )
    dns = {"metadata": {"name": "kube-dns", "namespace": "kube-system"}, "spec": {"clusterIP": "10.96.0.10"}}
    state.update(SERVICES, key_of(dns), dns)
    cluster = state.view(NGINX).config.clusters["default/s:80"]
    assert cluster["type"] == "STRICT_DNS"
    resolver = cluster["typed_dns_resolver_config"]["typed_config"]["resolvers"]
    assert resolver == [{"socket_address": {"address": "10.96.0.10", "port_value": 53}}]
    (end,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert end["endpoint"]["address"]["socket_address"] == {"address": "a.example", "port_value": 80}


@pytest.mark.parametrize(
    ("said", "ruled", "wanted"),
    [
        (None, Protocol.HTTP, Protocol.HTTP),
        ("kubernetes.io/h2c", Protocol.HTTP, Protocol.H2C),
        ("kubernetes.io/wss", Protocol.HTTP, Protocol.HTTPS),
        ("kubernetes.io/ws", Protocol.H2C, Protocol.H2C),
        ("kubernetes.io/h2c", Protocol.HTTPS, Protocol.HTTPS),
        ("http", Protocol.HTTP, Protocol.HTTP),
    ],
)
def test_what_is_spoken_with_a_backend(said: str | None, ruled: Protocol, wanted: Protocol) -> None:
    service = service_object("s", {"port": 80, **({"appProtocol": said} if said else {})})
    upstream = Upstream(Backend("default", "s", 80), ruled)
    assert endpoints_of(upstream.backend, service, []).spoken(upstream) is wanted


@pytest.mark.parametrize(
    ("service", "why"),
    [
        (None, "Service default/s does not exist"),
        (service_object("s", {"port": 81}), "Service default/s has no TCP port 80"),
        (service_object("s", {"port": 80, "protocol": "UDP"}), "Service default/s has no TCP port 80"),
        (service_object("s", type="ExternalName", externalName="localhost"), "localhost would be the controller"),
        (service_object("s", type="ExternalName", externalName="127.0.0.2"), "127.0.0.2 would be the controller"),
    ],
)  # fmt: skip
def test_why_there_is_nobody(service: Object | None, why: str) -> None:
    found = endpoints_of(Backend("default", "s", 80), service, [slice_of("s", "10.0.0.1")])
    assert not found.addresses
    assert found.problem is not None
    assert why in found.problem


# --- certificates


def test_key_pairs() -> None:
    assert key_pair_of(tls_secret("s", PAIR)) == PAIR


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        (tls_secret("s", PAIR._replace(key=OTHER.key)), "data[tls.key] is not the key of the certificate"),
        (tls_secret("s", PAIR._replace(certificate="x")), "Secret default/s: data[tls.crt]: no certificate in PEM"),
        (tls_secret("s", PAIR._replace(key="x")), "data[tls.key]: no private key in PEM"),
        ({**tls_secret("s", PAIR), "data": {"tls.crt": "?"}}, "data[tls.crt]: "),
        ({**tls_secret("s", PAIR), "data": {}}, "data[tls.crt] is missing"),
    ],
)
def test_broken_secrets(secret: Object, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        key_pair_of(secret)
    assert why in str(caught.value)


# --- the whole


def controller_pod() -> Object:
    _, deployment, _, _ = ingress_objects(IngressController("nginx", NGINX))
    template = deployment["spec"]["template"]["metadata"]
    return {"metadata": meta("pod", namespace="ingress-nginx", **template)}


def world(*objects: tuple[Resource, Object]) -> State:
    """A running controller nginx, its class and load balancer, and more."""
    state = State(self_signed("default"))
    _, _, service, ingress_class = ingress_objects(IngressController("nginx", NGINX))
    balancer = {**service, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}}}
    given = [(INGRESSCLASSES, ingress_class), (SERVICES, balancer), (PODS, controller_pod()), *objects]
    for resource, obj in given:
        assert state.update(resource, key_of(obj), obj) or resource is SECRETS  # nobody has asked for it yet
    return state


SHOP = ingress("shop", rule("a.example", path("/", "web")), tls=[{"hosts": ["a.example"], "secretName": "cert"}])


def test_a_controller_takes_its_own() -> None:
    foreign = {**ingress("foreign", default="web"), "spec": {"ingressClassName": "other"}}
    state = world((INGRESSES, SHOP), (INGRESSES, foreign))
    assert state.controllers() == {NGINX}
    view = state.view(NGINX)
    assert (set(view.ingresses), view.addresses) == ({Key("default", "shop")}, ("192.0.2.7",))
    assert not state.view("example.com/other").ingresses


def told(state: State) -> set[tuple[str, str]]:
    return {(problem.reason, problem.message.partition(": ")[2]) for problem in state.view(NGINX).problems}


def keys(config: Config) -> set[str]:
    """The private keys that Envoy is given."""
    return {secret["tls_certificate"]["private_key"]["inline_string"] for secret in config.secrets.values()}


def test_what_is_missing_is_told_until_it_is_there() -> None:
    state = world((INGRESSES, SHOP))
    missing = "there is no Secret default/cert"
    assert told(state) == {
        ("NoBackend", "requests for default/web:80 are answered 503: Service default/web does not exist"),
        ("BadCertificate", f"a.example has the default certificate: {missing}"),
    }
    for resource, obj in (
        (SERVICES, service_object("web")),
        (ENDPOINTSLICES, slice_of("web", "10.0.0.1")),
        (SECRETS, tls_secret("cert", PAIR)),
    ):
        state.update(resource, key_of(obj), obj)
    assert told(state) == set()
    config = state.view(NGINX).config
    assert "10.0.0.1" in str(config.clusters["default/web:80"])
    assert PAIR.key in keys(config)


def test_secrets_of_other_namespaces_are_out_of_reach() -> None:
    state = world((INGRESSES, SHOP), (SECRETS, tls_secret("cert", PAIR, namespace="other")))
    assert PAIR.key not in keys(state.view(NGINX).config)


def test_slices_and_secrets_go() -> None:
    end, secret = slice_of("web", "10.0.0.1"), tls_secret("cert", PAIR)
    state = world((INGRESSES, SHOP), (SERVICES, service_object("web")), (ENDPOINTSLICES, end), (SECRETS, secret))
    state.update(ENDPOINTSLICES, key_of(end), None)
    state.update(SECRETS, key_of(secret), None)
    config = state.view(NGINX).config
    assert "10.0.0.1" not in str(config.clusters)
    assert PAIR.key not in keys(config)


def test_a_status_changes_no_view() -> None:
    state = world((INGRESSES, SHOP))
    before = state.version
    assert state.update(INGRESSES, key_of(SHOP), with_address(SHOP, "192.0.2.7"))
    assert state.version == before
    for other in ({**SHOP, "spec": {}}, ingress("shop", annotations={"a": "b"}), None):
        state.update(INGRESSES, key_of(SHOP), other)
        assert state.version > before
        before = state.version


def test_what_does_not_count() -> None:
    state = world()
    opaque = {"metadata": meta("o"), "data": {"password": "eA=="}}
    assert not state.update(SECRETS, key_of(opaque), opaque)
    pod = {"metadata": meta("p")}
    assert not state.update(PODS, key_of(pod), pod)


# --- what is written back


def with_address(obj: Object, *addresses: str) -> Object:
    return {**obj, "status": {"loadBalancer": {"ingress": [{"ip": address} for address in addresses]}}}


def test_addresses_are_given_and_taken_back() -> None:
    ingresses = {
        Key("d", "new"): SHOP,
        Key("d", "right"): with_address(SHOP, "192.0.2.7"),
        Key("d", "left"): with_address(SHOP, "192.0.2.7"),  # its class is another one now
        Key("d", "foreign"): with_address(SHOP, "198.51.100.1"),
    }
    wanted = {Key("d", "new"): ("192.0.2.7",), Key("d", "right"): ("192.0.2.7",)}
    problems = [Problem(Owner("Ingress", "d", name), "R", "m") for name in ("gone", "new")]
    report = report_of(ingresses, wanted, {"192.0.2.7"}, problems, lambda owner: ingresses.get(owner.key))
    assert report.addresses == ((Key("d", "new"), ("192.0.2.7",)), (Key("d", "left"), ()))
    assert [(obj["metadata"]["name"], problem.owner.name) for obj, problem in report.problems] == [("shop", "new")]
