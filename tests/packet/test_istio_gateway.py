"""Istio's Gateway and VirtualServices from outside to pods, by requests of an outside host."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest
from clusterlab import eventually, running
from gatewayclient import OutsideClient, certificate_secret, der

from kmn import Cluster
from kmn.ingress.certificates import self_signed
from kmn.k8s.resources import EVENTS, SERVICES

pytestmark = [pytest.mark.packet, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

# As Istio's Bookinfo has it: versions of one Service.
REVIEWS = """\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: reviews-{version}}}
spec:
  selector: {{matchLabels: {{app: reviews, version: {version}}}}}
  template:
    metadata: {{labels: {{app: reviews, version: {version}}}}}
    spec: {{containers: [{{name: web, image: example.com/web:1, ports: [{{containerPort: 9080}}]}}]}}
---
"""
REVIEWS_SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {selector: {app: reviews}, ports: [{name: http, port: 9080}]}
---
"""
ISTIO = """\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: front}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}
  - {port: {number: 81, name: plain, protocol: HTTP}, hosts: [shop.example], tls: {httpsRedirect: true}}
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: [shop.example]
    tls: {mode: SIMPLE, credentialName: shop}
---
apiVersion: networking.istio.io/v1alpha3
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [shop.example]
  gateways: [front]
  http:
  - match: [{headers: {end-user: {exact: jason}}}]
    route: [{destination: {host: reviews, subset: v2}}]
  - match: [{uri: {prefix: /split}}]
    route:
    - {destination: {host: reviews, subset: v1}, weight: 75}
    - {destination: {host: reviews.default.svc.cluster.local, subset: v2}, weight: 25}
  - match: [{uri: {prefix: /api/}}]
    rewrite: {uri: /}
    headers: {request: {set: {x-way: istio}}}
    route: [{destination: {host: reviews, subset: v1}, headers: {response: {add: {x-seen: "yes"}}}}]
  - match: [{uri: {exact: /moved}}]
    redirect: {uri: /here, authority: other.example}
  - match: [{uri: {regex: "/tea(pot)?"}}]
    directResponse: {status: 418, body: {string: short and stout}}
  - match: [{uri: {prefix: /prod}}]
    fault: {abort: {httpStatus: 500, percentage: {value: 100}}}
    route: [{destination: {host: reviews, subset: v1}}]
"""


class IstioClient(OutsideClient):
    """What comes in by the ingress gateway."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)

        def address() -> str:
            status = cluster.client.get(SERVICES, "istio-system", "istio-ingressgateway").get("status") or {}
            found: str = ((status.get("loadBalancer") or {}).get("ingress") or [{}])[0].get("ip", "")
            return found

        eventually(lambda: bool(cluster.client.list(SERVICES, "istio-system").items and address()), "it has an address")
        self.address = address()

    def version(self, path: str, **how: str) -> str:
        """Of the pod that answers, or the status."""
        status, _, found = self.ask(path, **how)
        return found["pod"].split("-")[1] if status == 200 else str(status)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running("is") as found:
        found.apply("".join(REVIEWS.format(version=version) for version in ("v1", "v2")) + REVIEWS_SERVICE)
        found.apply(ISTIO)
        found.apply(certificate_secret("shop", PAIR, "istio-system"))
        found.wait_ready()
        yield found


PAIR = self_signed("shop.example")


@pytest.fixture(scope="module")
def outside(cluster: Cluster) -> IstioClient:
    found = IstioClient(cluster)
    eventually(lambda: found.version("/prod") == "v1", "routes are in force")
    return found


def test_the_first_route_that_matches_counts(outside: IstioClient) -> None:
    assert outside.version("/products") == "v1"  # prefixes are of characters
    assert outside.version("/products", end_user="jason") == "v2"
    assert outside.version("/") == "404"
    assert outside.ask("/prod", "other.example")[0] == 404


def test_subsets_get_their_weight(outside: IstioClient) -> None:
    found = Counter(outside.version("/split") for _ in range(200))
    assert set(found) == {"v1", "v2"}
    assert 120 <= found["v1"] <= 180


def test_rewrites_headers_redirects_and_answers(outside: IstioClient) -> None:
    status, headers, found = outside.ask("/api/v1/x?y=1")
    assert (status, found["path"], headers["x-seen"]) == (200, "/v1/x?y=1", "yes")
    assert found["headers"]["x-way"] == "istio"
    status, headers, _ = outside.ask("/moved?y=1")
    assert (status, headers["location"]) == (301, "http://other.example/here?y=1")
    assert outside.ask("/teapot")[0] == 418


def test_tls_and_the_way_to_it(outside: IstioClient) -> None:
    eventually(lambda: outside.certificate("shop.example") == der(PAIR), "the certificate is shown")
    assert outside.ask("/prod", tls=True, port=443)[0] == 200
    status, headers, _ = outside.ask("/prod", port=81)
    assert (status, headers["location"]) == (301, "https://shop.example/prod")


def test_what_has_no_effect_is_told(cluster: Cluster, outside: IstioClient) -> None:
    def told() -> set[str]:
        return {e["message"] for e in cluster.client.list(EVENTS, "default").items if e["reason"] == "NotEmulated"}

    eventually(lambda: bool(told()), "an Event is there")
    assert told() == {"VirtualService default/reviews: spec.http[5].fault has no effect"}


def test_labels_of_pods_make_the_subsets(cluster: Cluster, outside: IstioClient) -> None:
    cluster.apply(ISTIO.replace("{name: v2, labels: {version: v2}}", "{name: v2, labels: {version: v1}}"))
    eventually(lambda: outside.version("/products", end_user="jason") == "v1", "the subset is another one")
