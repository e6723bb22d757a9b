"""``kmn ingress explain`` of requests that come in by a Gateway, or by Istio's."""

from __future__ import annotations

from typing import Any

from kmn.cli.ingress import Query, asked_of, views_of
from kmn.ingress.certificates import self_signed
from kmn.ingress.explain import Explanation, explain
from kmn.ingress.state import State
from kmn.k8s.objects import Object, key_of, resource_of

V1, ISTIO = "gateway.networking.k8s.io/v1", "networking.istio.io/v1"


def made(api_version: str, kind: str, name: str, **spec: Any) -> Object:
    meta = {"name": name, "generation": 1} | ({} if kind == "GatewayClass" else {"namespace": "default"})
    return {"apiVersion": api_version, "kind": kind, "metadata": meta, "spec": spec}


def explained(url: str, *objects: Object) -> Explanation:
    state = State(self_signed("x"))
    service = made("v1", "Service", "web", ports=[{"port": 80, "targetPort": 8080}])
    ends = {
        **made("discovery.k8s.io/v1", "EndpointSlice", "web-1"),
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.244.0.2"]}],
        "ports": [{"port": 8080}],
    }
    ends["metadata"]["labels"] = {"kubernetes.io/service-name": "web"}
    for obj in (*objects, service, ends):
        state.update(resource_of(obj), key_of(obj), obj)
    ((controller, view),) = views_of(state).items()
    return explain(asked_of(Query(url)), controller, view, str, state.alone)


def test_of_a_gateway() -> None:
    rules = [{"matches": [{"path": {"value": "/a"}}], "backendRefs": [{"name": "web", "port": 80}]}]
    objects = (
        made(V1, "GatewayClass", "kmn", controllerName="kmn.io/gateway-controller"),
        made(
            V1, "Gateway", "front", gatewayClassName="kmn", listeners=[{"name": "a", "port": 8000, "protocol": "HTTP"}]
        ),
        made(V1, "HTTPRoute", "shop", parentRefs=[{"name": "front"}], hostnames=["*.example"], rules=rules),
    )
    found = explained("http://shop.example:8000/a/b", *objects)
    assert (found.controller, found.verdict) == ("Gateway default/front", "forwarded")
    assert found.winner is not None
    assert found.winner.rule.name == "HTTPRoute default/shop spec.rules[0].matches[0]"
    assert explained("http://shop.example:8000/b", *objects).status == 404
    assert explained("http://shop.example/a", *objects).verdict == "refused"


def test_of_istio() -> None:
    server = {"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}
    route = {"match": [{"uri": {"prefix": "/a"}}], "route": [{"destination": {"host": "web"}}]}
    objects = (
        made(ISTIO, "Gateway", "front", selector={"istio": "ingressgateway"}, servers=[server]),
        made(ISTIO, "VirtualService", "shop", hosts=["*"], gateways=["front"], http=[route]),
    )
    found = explained("http://shop.example/apple", *objects)
    assert (found.controller, found.entrance, found.verdict) == ("istio-ingressgateway", "port 80", "forwarded")
    assert explained("http://shop.example/b", *objects).status == 404
