# ruff: noqa: E501 (tables of values: one object a line)
"""Objects of tenants with odd values: a sane object of each kind that says all that can be said, and what comes of it
when one or two of its values are others. Those that the API's admission refuses are never made."""

from __future__ import annotations

import base64
import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from kmn.apiserver.admission import ClusterAdmission
from kmn.cluster_spec import ClusterSpec
from kmn.ingress.certificates import self_signed
from kmn.k8s.errors import Invalid
from kmn.k8s.objects import Object, resource_of

__all__ = ["KINDS", "admitted", "around", "odd_objects"]

NGINX, ALB, TRAEFIK = "k8s.io/ingress-nginx", "ingress.k8s.aws/alb", "traefik.io/ingress-controller"
_GROUP = "gateway.networking.k8s.io/v1"
_ISTIO = "networking.istio.io/v1"

STRINGS = (
    "", " ", "a b", "a\nb", "a\r\nX-B: y", "\0", "\x7f", "é", "💥", "%", "100%", "%REQ(", "%REQ(host)%", "{host}", "$1", "$9",
    "\\", "\\1", "\\9", "(", ")", "[", "(a", "[z-a]", "a{2,1}", "a{1001}", "(a{1000}){1000}", "(?=a)", "(?P<a>.)(?P<a>.)",
    "(?<n>a)", "(?x) a", "\\p{Foo}", "\\d\\Q.\\E", "\\C", "[[:foo:]]", "[\\Z]", "\\8", "\\x{110000}", "*", "**", "?", "+",
    "a**", "(?i", "|", "/", "//", "/a?b", "/a#b", "/a b", "/%zz", "/é", "/(a|", "/a/../b", "a" * 300, "/" + "a" * 70_000,
    "-1", "0", "1", "007", "99", "600", "999", "65536", "4294967296", "99999999999", "1" * 30, "1e9", "1.5", "nan", "-5s",
    "0s", "1ms", "0.0001s", "99999999h", "999999999s", "true", "null", "[]", "{}", "[1]", '""', '[{"HTTP": -1}]',
    ":path", ":authority", ":foo", "host", "content-length", "transfer-encoding", "connection", "x y", "x:y", "é: a",
    "set-cookie", "127.0.0.1", "127.0.0.1/33", "::/0", "10.0.0.0/8,::1/128", "0.0.0.0/0", "1.2.3.4/255.0.0.0", "10.0.0.1/8",
    "*.a", "*.*", "a.*", "A.Example.", "a.example:80", ".", "a..b", "-", "http://", "http://[", "http://[::1", "http://a:b/",
    "http://backend.default:99999/", "http://backend.default.svc.cluster.local/%\x01 é",
    "http://backend.default.svc.cluster.local/é", "a,a", ",", ";", "=", "a=b;c", "a;Path=/", '"', "'", "<a>", "null ",
    "²", "http_999", "http_000", "Basic", "~^(", "x" * 70_000,
)  # fmt: skip
NUMBERS = (
    -1,
    0,
    1,
    99,
    100,
    199,
    200,
    204,
    299,
    304,
    599,
    600,
    999,
    65535,
    65536,
    10_000_000,
    2**31,
    2**32,
    2**63,
    1.5,
)


# --- what there is besides --------------------------------------------------------------------------------------


def made(api_version: str, kind: str, name: str, namespace: str | None = "default", **fields: Any) -> Object:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {}), **fields.pop("metadata", {})}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **fields}


def around() -> list[Object]:
    """Classes, a Service, its endpoints, and what objects refer to."""
    classes = [
        made("networking.k8s.io/v1", "IngressClass", name, None, spec={"controller": controller})
        for name, controller in (("nginx", NGINX), ("alb", ALB), ("traefik", TRAEFIK))
    ]
    service = {
        "type": "NodePort", "clusterIP": "10.96.0.9", "selector": {"app": "a"},
        "ports": [{"name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP"}],
    }  # fmt: skip
    ends = made(
        "discovery.k8s.io/v1", "EndpointSlice", "backend-1", metadata={"labels": {"kubernetes.io/service-name": "backend"}},
        addressType="IPv4", endpoints=[{"addresses": ["10.0.0.1"]}],
        ports=[{"name": "http", "port": 8080, "protocol": "TCP"}],
    )  # fmt: skip
    gateway_class = {"controllerName": "gateway.envoyproxy.io/gatewayclass-controller"}
    dns = {"clusterIP": "10.96.0.10", "ports": [{"port": 53, "protocol": "UDP"}]}
    return [
        *classes,
        made("v1", "Service", "backend", spec=service),
        made("v1", "Service", "kube-dns", "kube-system", spec=dns),
        ends,
        made(_GROUP, "GatewayClass", "kmn", None, spec=gateway_class),
        made("v1", "Namespace", "default", None),
        made(_GROUP, "Gateway", "front", spec={"gatewayClassName": "kmn", "listeners": [
            {"name": "a", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "Same"}}}]}),
        made("v1", "Secret", "istio-cert", "istio-system", type="Opaque", data=_CERTIFICATE),
    ]  # fmt: skip


# --- sane objects, with all that can be said ---------------------------------------------------------------------

_NGINX = (
    {
        "rewrite-target": "/$1", "use-regex": "true", "ssl-redirect": "false", "force-ssl-redirect": "true",
        "upstream-vhost": "inner.example", "x-forwarded-prefix": "/api", "proxy-body-size": "8m", "app-root": "/app",
        "proxy-read-timeout": "30", "proxy-connect-timeout": "5", "proxy-next-upstream": "error http_502",
        "proxy-next-upstream-tries": "2", "proxy-request-buffering": "off", "enable-cors": "true",
        "cors-allow-origin": "https://*.a.example, https://b.example", "cors-allow-methods": "GET, PUT",
        "cors-allow-headers": "X-A,X-B", "cors-expose-headers": "X-C", "cors-max-age": "60",
        "cors-allow-credentials": "true", "limit-rps": "5", "limit-rpm": "100", "limit-burst-multiplier": "3",
        "whitelist-source-range": "10.0.0.0/8", "denylist-source-range": "10.1.0.0/16", "server-alias": "HOST.alias",
        "from-to-www-redirect": "true", "backend-protocol": "HTTP", "service-upstream": "false",
        "default-backend": "backend", "custom-http-errors": "404,503", "mirror-host": "m.example",
        "mirror-target": "http://backend.default.svc.cluster.local/$request_uri", "custom-headers": "default/headers",
        "auth-url": "http://backend.default.svc.cluster.local/check?a=b", "auth-response-headers": "X-User,X-Mail",
    },
    {
        "auth-type": "basic", "auth-secret": "users", "auth-realm": "who?", "auth-secret-type": "auth-file",
        "affinity": "cookie", "affinity-mode": "persistent", "session-cookie-name": "S", "session-cookie-path": "/",
        "session-cookie-max-age": "60", "session-cookie-domain": "a.example", "session-cookie-samesite": "Lax",
        "session-cookie-secure": "true",
    },
    {"affinity": "cookie", "session-cookie-name": "S", "session-cookie-path": "/", "session-cookie-expires": "60",
     "session-cookie-domain": "a.example"},
    {"upstream-hash-by": "$http_x_user$arg_a${cookie_c}$remote_addr", "load-balance": "ewma"},
    {"permanent-redirect": "https://other.example/x", "permanent-redirect-code": "308"},
    {"temporal-redirect": "https://other.example/x", "temporal-redirect-code": "307"},
    {"ssl-passthrough": "true", "backend-protocol": "GRPC"},
)  # fmt: skip
_CANARY = {
    "canary": "true", "canary-by-header": "X-Canary", "canary-by-header-value": "yes", "canary-by-cookie": "canary",
    "canary-weight": "20", "canary-weight-total": "100", "affinity": "cookie",
}  # fmt: skip
_CONFIGMAP = {
    "ssl-redirect": "false", "http-redirect-code": "301", "proxy-read-timeout": "7", "proxy-connect-timeout": "3",
    "limit-req-status-code": "429", "proxy-body-size": "1m", "use-proxy-protocol": "true",
    "global-allowed-response-headers": "X-Team,X-Odd", "use-forwarded-headers": "true",
}  # fmt: skip
_ALB = {
    "scheme": "internet-facing", "listen-ports": '[{"HTTP": 80}, {"HTTPS": 443}]', "target-type": "ip",
    "inbound-cidrs": "10.0.0.0/8", "load-balancer-attributes": "idle_timeout.timeout_seconds=60",
    "backend-protocol": "HTTP", "backend-protocol-version": "HTTP1", "healthcheck-path": "/ok", "healthcheck-port": "8080",
    "healthcheck-interval-seconds": "15", "healthcheck-timeout-seconds": "5", "healthy-threshold-count": "2",
    "unhealthy-threshold-count": "2", "success-codes": "200,202-299", "group.order": "1",
    "target-group-attributes": "stickiness.enabled=true,stickiness.lb_cookie.duration_seconds=60",
}  # fmt: skip
_ALB_ACTIONS: tuple[Any, ...] = (
    {"type": "forward", "forwardConfig": {"targetGroups": [
        {"serviceName": "backend", "servicePort": 80, "weight": 3}, {"serviceName": "backend", "servicePort": "http"}]}},
    {"type": "redirect", "redirectConfig": {
        "protocol": "HTTPS", "host": "a.#{host}", "port": "443", "path": "/a/#{path}", "query": "b=#{query}",
        "statusCode": "HTTP_301"}},
    {"type": "redirect", "redirectConfig": {"host": "a.example", "path": "/x", "query": "b=c", "statusCode": "HTTP_302"}},
    {"type": "fixed-response", "fixedResponseConfig": {
        "statusCode": "503", "messageBody": "no", "contentType": "text/plain"}},
)  # fmt: skip
_ALB_CONDITIONS = [
    {"field": "host-header", "hostHeaderConfig": {"values": ["HOST"]}},
    {"field": "path-pattern", "pathPatternConfig": {"values": ["/a/*"]}},
    {"field": "http-header", "httpHeaderConfig": {"httpHeaderName": "X-A", "values": ["a*"]}},
    {"field": "http-request-method", "httpRequestMethodConfig": {"values": ["GET"]}},
    {"field": "query-string", "queryStringConfig": {"values": [{"key": "a", "value": "b?"}]}},
    {"field": "source-ip", "sourceIpConfig": {"values": ["10.0.0.0/8"]}},
]
_MIDDLEWARES: tuple[Any, ...] = (
    {"stripPrefix": {"prefixes": ["/a", "/b"]}},
    {"stripPrefixRegex": {"regex": ["/[a-z]+"]}},
    {"addPrefix": {"prefix": "/x"}},
    {"replacePath": {"path": "/x"}},
    {"replacePathRegex": {"regex": "^/a/(.*)", "replacement": "/x/$1"}},
    {"redirectScheme": {"scheme": "https", "port": "8443", "permanent": True}},
    {"headers": {
        "customRequestHeaders": {"X-A": "b"}, "customResponseHeaders": {"X-C": "d", "Server": ""}, "frameDeny": True,
        "customFrameOptionsValue": "x", "contentSecurityPolicy": "y", "accessControlAllowMethods": ["GET"],
        "accessControlAllowHeaders": ["X-A"], "accessControlAllowOriginList": ["https://a.example"],
        "accessControlAllowOriginListRegex": ["^https://.*"], "accessControlMaxAge": 5,
        "accessControlExposeHeaders": ["X-D"], "accessControlAllowCredentials": True}},
    {"ipAllowList": {"sourceRange": ["10.0.0.0/8", "::1/128"]}},
    {"basicAuth": {"secret": "users", "realm": "x", "removeHeader": True}},
    {"rateLimit": {"average": 5, "period": "1m", "burst": 10}},
    {"retry": {"attempts": 3}},
    {"buffering": {"maxRequestBodyBytes": 1000}},
    {"chain": {"middlewares": [{"name": "other"}]}},
)  # fmt: skip
_TRAEFIK = {
    "router.entrypoints": "web,websecure", "router.priority": "5", "router.pathmatcher": "PathRegexp", "router.tls": "false",
    "router.middlewares": "default-OWN@kubernetescrd",
}  # fmt: skip
_TRAEFIK_SERVICE = {
    "service.serversscheme": "http", "service.sticky.cookie": "true", "service.sticky.cookie.name": "C",
    "service.sticky.cookie.path": "/", "service.sticky.cookie.maxage": "5", "service.sticky.cookie.samesite": "lax",
    "service.sticky.cookie.secure": "true",
}  # fmt: skip
_PAIR = self_signed("odd.example")
_CERTIFICATE = {
    "tls.crt": base64.b64encode(_PAIR.certificate.encode()).decode(),
    "tls.key": base64.b64encode(_PAIR.key.encode()).decode(),
}
_SERVICE = {"service": {"name": "backend", "port": {"number": 80}}}
_BACKENDS = [{"name": "backend", "port": 80, "weight": 1}, {"name": "backend", "port": 80, "weight": 2}]
_MODIFIER = {"set": [{"name": "X-A", "value": "a"}], "add": [{"name": "X-B", "value": "b"}], "remove": ["X-C"]}
_HTTP_FILTERS: tuple[Any, ...] = (
    {"type": "RequestHeaderModifier", "requestHeaderModifier": _MODIFIER},
    {"type": "ResponseHeaderModifier", "responseHeaderModifier": _MODIFIER},
    {"type": "RequestMirror", "requestMirror": {
        "backendRef": {"name": "backend", "port": 80}, "fraction": {"numerator": 1, "denominator": 3}}},
    {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "backend", "port": 80}, "percent": 5}},
    {"type": "RequestRedirect", "requestRedirect": {
        "scheme": "https", "hostname": "a.example", "port": 443, "statusCode": 301,
        "path": {"type": "ReplaceFullPath", "replaceFullPath": "/x"}}},
    {"type": "RequestRedirect", "requestRedirect": {
        "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/x"}}},
    {"type": "URLRewrite", "urlRewrite": {
        "hostname": "a.example", "path": {"type": "ReplaceFullPath", "replaceFullPath": "/x"}}},
    {"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/x"}}},
    {"type": "CORS", "cors": {
        "allowOrigins": ["https://a.example", "https://*.b.example"], "allowMethods": ["GET"], "allowHeaders": ["X-A"],
        "exposeHeaders": ["X-B"], "maxAge": 5, "allowCredentials": True}},
    {"type": "ExternalAuth", "externalAuth": {
        "protocol": "HTTP", "backendRef": {"name": "backend", "port": 80},
        "http": {"path": "/x", "allowedResponseHeaders": ["X-U"]}}},
)  # fmt: skip
_WORDS = {"exact": "a"}, {"prefix": "a"}, {"regex": "a+"}
_CHANGES = {"set": {"X-A": "a"}, "add": {"X-B": "b"}, "remove": ["X-C"]}
_DESTINATION = {"host": "backend", "port": {"number": 80}}
_ISTIO_ROUTES: tuple[Any, ...] = (
    {
        "match": [{
            "uri": {kind: "/a"}, "scheme": dict(word), "method": dict(word), "authority": dict(word),
            "headers": {"x-a": dict(word)}, "withoutHeaders": {"x-b": dict(word)}, "queryParams": {"q": dict(word)},
            "port": 80, "ignoreUriCase": True}],
        "route": [{"destination": _DESTINATION, "weight": 3, "headers": {"request": _CHANGES, "response": _CHANGES}},
                  {"destination": {**_DESTINATION, "subset": "v1"}, "weight": 4}],
        "headers": {"request": _CHANGES, "response": _CHANGES},
        "rewrite": {"uri": "/b", "authority": "a.example"} if kind != "regex" else
                   {"uriRegexRewrite": {"match": "^/(a)", "rewrite": "/\\1"}},
        "timeout": "5s", "retries": {"attempts": 3, "retryOn": "5xx,503", "perTryTimeout": "1s"},
        **({"mirror": _DESTINATION, "mirrorPercentage": {"value": 3.5}} if kind == "exact" else
           {"mirrors": [{"destination": _DESTINATION, "percentage": {"value": 3.5}}]}),
        "corsPolicy": {"allowOrigins": [dict(word)], "allowOrigin": ["a"], "allowMethods": ["GET"], "maxAge": "5s",
                       "allowHeaders": ["X-A"], "exposeHeaders": ["X-B"], "allowCredentials": True},
    }
    for kind, word in zip(("exact", "prefix", "regex"), _WORDS, strict=True)
)  # fmt: skip
_ISTIO_ROUTES = (
    *_ISTIO_ROUTES,
    {"redirect": {"uri": "/x", "authority": "a.example", "port": 8443, "scheme": "https", "redirectCode": 302}},
    {"directResponse": {"status": 503, "body": {"string": "no"}}},
)


def _ingress(name: str, host: str, kind: str, annotations: dict[str, str], **fields: Any) -> Object:
    paths = [
        {"path": "/a/(.*)" if kind == "nginx" else "/a", "pathType": "ImplementationSpecific", "backend": _SERVICE}
    ]
    paths += [
        {"path": "/b", "pathType": "Prefix", "backend": _SERVICE},
        {"path": "/c", "pathType": "Exact", "backend": _SERVICE},
    ]
    domain = {"nginx": "nginx.", "alb": "alb.", "traefik": "traefik."}[kind] + ("ingress.kubernetes.io/")
    if kind == "nginx":
        paths[0]["path"] = "/a"
    spec = {"ingressClassName": kind, "rules": [{"host": host, "http": {"paths": paths}}], **fields}
    return made("networking.k8s.io/v1", "Ingress", name, spec=spec,
                metadata={"annotations": {domain + key: value.replace("HOST", host) for key, value in annotations.items()}})  # fmt: skip


def _nginx(dice: random.Random, name: str, host: str) -> Iterator[Object]:
    yield _ingress(name, host, "nginx", dice.choice(_NGINX), tls=[{"hosts": [host], "secretName": f"{name}-cert"}],
                   defaultBackend=_SERVICE)  # fmt: skip
    yield made("v1", "Secret", f"{name}-cert", type="Opaque", data=_CERTIFICATE)
    if dice.random() < 0.3:
        yield _ingress(f"{name}-canary", host, "nginx", _CANARY)


def _configmap(dice: random.Random, name: str, host: str) -> Iterator[Object]:
    yield made("v1", "ConfigMap", "ingress-nginx-controller", "ingress-nginx", data=_CONFIGMAP)
    yield made("v1", "ConfigMap", "headers", data={"X-Team": "a"})
    yield _ingress(name, host, "nginx", _NGINX[0])


def _users(dice: random.Random, name: str, host: str) -> Iterator[Object]:
    users = "dTp7U0hBfVc2cGg1TW01UHo4R2dpVUxiUGd6RzM3bWo5Zz0="  # u:password, by SHA-1
    yield made("v1", "Secret", "users", type="Opaque", data={"auth": users, "users": users})
    yield _ingress(name, host, "nginx", _NGINX[1])
    yield _ingress(f"{name}-t", host, "traefik", {"router.middlewares": f"default-{name}@kubernetescrd"})
    yield made("traefik.io/v1alpha1", "Middleware", name, spec={"basicAuth": {"secret": "users", "realm": "x"}})


def _alb(dice: random.Random, name: str, host: str) -> Iterator[Object]:
    annotations = {**_ALB, "group.name": dice.choice((name, "shared"))}
    annotations["actions.act"] = json.dumps(_odd(dice, dice.choice(_ALB_ACTIONS)))
    annotations["conditions.act"] = json.dumps(_odd(dice, dice.sample(_ALB_CONDITIONS, dice.randrange(1, 6))))
    made_ = _ingress(name, host, "alb", annotations, tls=[{"hosts": [host], "secretName": f"{name}-cert"}])
    act = {"service": {"name": "act", "port": {"name": "use-annotation"}}}
    made_["spec"]["rules"][0]["http"]["paths"].append(
        {"path": "/d/*", "pathType": "ImplementationSpecific", "backend": act}
    )
    yield made_


def _traefik(dice: random.Random, name: str, host: str) -> Iterator[Object]:
    annotations = {key: value.replace("OWN", name) for key, value in _TRAEFIK.items()}
    yield _ingress(name, host, "traefik", annotations)
    yield made("traefik.io/v1alpha1", "Middleware", name, spec=dice.choice(_MIDDLEWARES))


def _traefik_service(dice: random.Random, name: str, host: str) -> Iterator[Object]:
    domain = "traefik.ingress.kubernetes.io/"
    service = next(each for each in around() if each["metadata"]["name"] == "backend")
    yield {
        **service,
        "metadata": {**service["metadata"], "annotations": {domain + k: v for k, v in _TRAEFIK_SERVICE.items()}},
    }
    yield _ingress(name, host, "traefik", {"router.priority": "5"})


def _external(dice: random.Random, name: str, host: str) -> Iterator[Object]:
    spec = {"type": "ExternalName", "externalName": "a.example", "ports": [{"port": 80, "targetPort": 8080}]}
    yield made("v1", "Service", "backend", spec=spec)
    for kind in ("nginx", "traefik"):
        yield _ingress(f"{name}-{kind}", host, kind, {})


def _http_route(dice: random.Random, name: str, host: str) -> Iterator[Object]:
    match = {
        "path": {"type": dice.choice(("Exact", "PathPrefix", "RegularExpression")), "value": "/a"}, "method": "GET",
        "headers": [{"name": "X-A", "value": "a", "type": dice.choice(("Exact", "RegularExpression"))}],
        "queryParams": [{"name": "q", "value": "a", "type": dice.choice(("Exact", "RegularExpression"))}],
    }  # fmt: skip
    rule = {"matches": [match], "filters": [dice.choice(_HTTP_FILTERS)], "backendRefs": _BACKENDS}
    if rule["filters"][0]["type"] == "RequestRedirect":
        rule.pop("backendRefs")
    if "replacePrefixMatch" in str(rule["filters"]):
        match["path"]["type"] = "PathPrefix"
    if dice.random() < 0.4:
        rule |= {
            "timeouts": {"request": "5s", "backendRequest": "2s"},
            "retry": {"attempts": 2, "codes": [500], "backoff": "1s"},
        }
        rule["sessionPersistence"] = dice.choice((
            {"type": "Cookie", "absoluteTimeout": "1h", "cookie": {"name": "a", "path": "/a", "lifetimeType": "Permanent"}},
            {"type": "Header", "header": {"name": "X-S"}},
        ))  # fmt: skip
    plain = {"backendRefs": [{**_BACKENDS[0], "filters": [_HTTP_FILTERS[0]]}, _BACKENDS[1]]}
    yield made(
        _GROUP, "HTTPRoute", name, spec={"parentRefs": [{"name": "front"}], "hostnames": [host], "rules": [rule, plain]}
    )


def _grpc_route(dice: random.Random, name: str, host: str) -> Iterator[Object]:
    match = {
        "method": {"service": "a.B", "method": "C", "type": dice.choice(("Exact", "RegularExpression"))},
        "headers": [{"name": "X-A", "value": "a", "type": dice.choice(("Exact", "RegularExpression"))}],
    }
    rule = {"matches": [match], "filters": [dice.choice(_HTTP_FILTERS[:4])], "backendRefs": _BACKENDS}
    yield made(
        _GROUP, "GRPCRoute", name, spec={"parentRefs": [{"name": "front"}], "hostnames": [host], "rules": [rule]}
    )


def _gateway(dice: random.Random, name: str, host: str) -> Iterator[Object]:
    listeners = [
        {"name": "a", "port": 80, "protocol": "HTTP", "hostname": host},
        {"name": "b", "port": 443, "protocol": "HTTPS", "hostname": host,
         "tls": {"mode": "Terminate", "certificateRefs": [{"name": f"{name}-cert"}]}},
        {"name": "c", "port": 443, "protocol": "TLS", "hostname": f"p.{host}", "tls": {"mode": "Passthrough"}},
        {"name": "d", "port": 5000, "protocol": "TCP"},
    ]  # fmt: skip
    yield made(_GROUP, "Gateway", name, spec={"gatewayClassName": "kmn", "listeners": listeners})
    yield made("v1", "Secret", f"{name}-cert", type="Opaque", data=_CERTIFICATE)
    parents = [{"name": name}]
    for kind, names in (("TLSRoute", {"hostnames": [f"p.{host}", f"*.p.{host}"]}), ("TCPRoute", {})):
        yield made(_GROUP, kind, name, spec={"parentRefs": parents, **names, "rules": [{"backendRefs": _BACKENDS}]})
    yield made(_GROUP, "HTTPRoute", name, spec={"parentRefs": parents, "rules": [{"backendRefs": _BACKENDS}]})


def _istio(dice: random.Random, name: str, host: str) -> Iterator[Object]:
    servers = [
        {"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": [host]},
        {"port": {"number": 443, "name": "tls", "protocol": "TLS"}, "hosts": [f"p.{host}"], "tls": {"mode": "PASSTHROUGH"}},
        {"port": {"number": 444, "name": "https", "protocol": "HTTPS"}, "hosts": [host],
         "tls": {"mode": "SIMPLE", "credentialName": "istio-cert"}},
        {"port": {"number": 9000, "name": "tcp", "protocol": "TCP"}, "hosts": ["*"]},
    ]  # fmt: skip
    yield made(_ISTIO, "Gateway", name, spec={"selector": {"istio": "ingressgateway"}, "servers": servers})
    to = [{"destination": _DESTINATION, "weight": 1}, {"destination": _DESTINATION, "weight": 2}]
    spec = {
        "hosts": [host, f"p.{host}"], "gateways": [name], "http": [dice.choice(_ISTIO_ROUTES)],
        "tls": [{"match": [{"sniHosts": [f"p.{host}"], "port": 443}], "route": to}],
        "tcp": [{"match": [{"port": 9000}], "route": to}],
    }  # fmt: skip
    yield made(_ISTIO, "VirtualService", name, spec=spec)
    hashes: tuple[Any, ...] = (
        {"httpHeaderName": "x-a"}, {"useSourceIp": True}, {"httpQueryParameterName": "q"},
        {"httpCookie": {"name": "c", "path": "/", "ttl": "5s"}},
    )  # fmt: skip
    policy = {
        "loadBalancer": {"consistentHash": dice.choice(hashes)},
        "connectionPool": {"tcp": {"connectTimeout": "3s"}},
    }
    subsets = [{"name": "v1", "labels": {"version": "v1"}, "trafficPolicy": {"tls": {"mode": "SIMPLE"}}}]
    yield made(_ISTIO, "DestinationRule", name, spec={"host": "backend", "trafficPolicy": policy, "subsets": subsets})


Form = Callable[[random.Random, str, str], Iterator[Object]]
KINDS: dict[str, Form] = {
    "nginx": _nginx, "users": _users, "configmap": _configmap, "alb": _alb, "traefik": _traefik,
    "traefik-service": _traefik_service, "external-name": _external, "http-route": _http_route, "grpc-route": _grpc_route,
    "gateway": _gateway, "istio": _istio,
}  # fmt: skip


# --- odd values --------------------------------------------------------------------------------------------------


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Containers and what in them is a text, a number or a flag: its key or index."""
    for key, each in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(each, dict | list):
            yield from _places(each)
            yield value, key
        else:
            yield value, key


def _odd(dice: random.Random, value: Any) -> Any:
    """The same with another value somewhere, or without one, or with another name of one."""
    changed = copy.deepcopy(value)
    places = list(_places(changed))
    if not places:
        return changed
    container, key = dice.choice(places)
    old, how = container[key], dice.random()
    if how < 0.05:
        del container[key]
    elif how < 0.12 and isinstance(container, dict):
        container[dice.choice(STRINGS)] = container.pop(key)
    elif how < 0.2 and isinstance(container, list):
        container.append(copy.deepcopy(old))
    elif isinstance(old, str):
        other = dice.choice(STRINGS)
        container[key] = dice.choice((other, other, old + other, other + old))
    elif isinstance(old, int | float):
        container[key] = dice.choice(NUMBERS)
    return changed


def _with_odd_values(dice: random.Random, obj: Object) -> Object:
    annotations = obj["metadata"].get("annotations")
    if annotations and dice.random() < 0.7:
        return {**obj, "metadata": {**obj["metadata"], "annotations": _odd(dice, annotations)}}
    part = "data" if "data" in obj else "spec"
    return {**obj, part: _odd(dice, obj[part])}


def odd_objects(dice: random.Random, kind: str, name: str, host: str) -> list[Object]:
    """What one tenant makes: objects of a kind and what they need, with an odd value in one or two of them."""
    objects = list(KINDS[kind](dice, name, host))
    for _ in range(dice.choice((1, 1, 2))):
        index = dice.randrange(len(objects))
        changed = admitted(_with_odd_values(dice, objects[index]))
        if changed is not None:
            objects[index] = changed
    return [found for each in objects if (found := admitted(each)) is not None]


def admitted(obj: Object) -> Object | None:
    """As the API server stores it, None for one that it refuses."""
    private = copy.deepcopy(obj)
    admission = ClusterAdmission(ClusterSpec.default("test"))
    try:
        found, _ = admission.admit("CREATE", resource_of(obj), private, None, trusted=False)
    except Invalid:
        return None
    return found
