"""ingress-nginx' annotations: what each of them becomes in the model, and what is told of values that are wrong."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import pytest
from ingress_objects import ingress, meta, path, rule, service_object
from published import followed_orders

from kmn.ingress.dialects import dialect_of
from kmn.ingress.model import (
    ANY_HOST,
    Answer,
    Authorization,
    Backend,
    Balance,
    BasicAuth,
    Cookie,
    ErrorPages,
    Forward,
    HashKey,
    HeaderChange,
    How,
    Keyed,
    Mirror,
    Protocol,
    RateLimit,
    Redirect,
    Retry,
    Rewrite,
    Routing,
    Rule,
    Sources,
    Text,
    Upstream,
)
from kmn.k8s.objects import Key, Object
from kmn.k8s.resources import CONFIGMAPS, SECRETS, SERVICES, Resource

# Of upstream's documentation (annotations.md), all of them.
ANNOTATIONS = [
    "app-root", "affinity", "affinity-mode", "affinity-canary-behavior", "auth-realm", "auth-secret",
    "auth-secret-type", "auth-type", "auth-tls-secret", "auth-tls-verify-depth", "auth-tls-verify-client",
    "auth-tls-error-page", "auth-tls-pass-certificate-to-upstream", "auth-tls-match-cn", "auth-url",
    "auth-cache-key", "auth-cache-duration", "auth-keepalive", "auth-keepalive-share-vars",
    "auth-keepalive-requests", "auth-keepalive-timeout", "auth-proxy-set-headers", "auth-method", "auth-signin",
    "auth-signin-redirect-param", "auth-response-headers", "auth-request-redirect", "auth-always-set-cookie",
    "auth-snippet", "enable-global-auth", "backend-protocol", "canary", "canary-by-header",
    "canary-by-header-value", "canary-by-header-pattern", "canary-by-cookie", "canary-weight",
    "canary-weight-total", "client-body-buffer-size", "configuration-snippet", "custom-http-errors",
    "custom-headers", "default-backend", "enable-cors", "cors-allow-origin", "cors-allow-methods",
    "cors-allow-headers", "cors-expose-headers", "cors-allow-credentials", "cors-max-age", "force-ssl-redirect",
    "from-to-www-redirect", "http2-push-preload", "limit-connections", "limit-rps", "limit-rpm",
    "limit-burst-multiplier", "limit-rate", "limit-rate-after", "limit-whitelist", "permanent-redirect",
    "permanent-redirect-code", "temporal-redirect", "temporal-redirect-code", "preserve-trailing-slash",
    "proxy-body-size", "proxy-cookie-domain", "proxy-cookie-path", "proxy-connect-timeout",
    "proxy-send-timeout", "proxy-read-timeout", "proxy-next-upstream", "proxy-next-upstream-timeout",
    "proxy-next-upstream-tries", "proxy-request-buffering", "proxy-redirect-from", "proxy-redirect-to",
    "proxy-http-version", "proxy-ssl-secret", "proxy-ssl-ciphers", "proxy-ssl-name", "proxy-ssl-protocols",
    "proxy-ssl-verify", "proxy-ssl-verify-depth", "proxy-ssl-server-name", "enable-rewrite-log",
    "rewrite-target", "satisfy", "server-alias", "server-snippet", "service-upstream",
    "session-cookie-change-on-failure", "session-cookie-conditional-samesite-none", "session-cookie-domain",
    "session-cookie-expires", "session-cookie-max-age", "session-cookie-name", "session-cookie-path",
    "session-cookie-samesite", "session-cookie-secure", "ssl-redirect", "ssl-passthrough", "stream-snippet",
    "upstream-hash-by", "upstream-hash-by-subset", "upstream-hash-by-subset-size", "x-forwarded-prefix",
    "load-balance", "upstream-vhost", "denylist-source-range", "whitelist-source-range", "proxy-buffering",
    "proxy-buffers-number", "proxy-buffer-size", "proxy-busy-buffers-size", "proxy-max-temp-file-size",
    "ssl-ciphers", "ssl-prefer-server-ciphers", "connection-proxy-header", "enable-access-log",
    "enable-opentelemetry", "opentelemetry-trust-incoming-span", "use-regex", "enable-modsecurity",
    "enable-owasp-core-rules", "modsecurity-transaction-id", "modsecurity-snippet", "mirror-request-body",
    "mirror-target", "mirror-host",
]  # fmt: skip
LIKE_OTHERS = {"auth-keepalive-share-vars", "auth-keepalive-requests", "auth-keepalive-timeout"}
PREFIX = "nginx.ingress.kubernetes.io/"
DIGEST = "{SHA}C+7Hteo/D9vJXQ3UfzxbwnXaijM="
APACHE = "$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/"


def of_data(name: str, **data: str) -> Object:
    """A Secret."""
    return {
        "metadata": meta(name),
        "data": {key: base64.b64encode(text.encode()).decode() for key, text in data.items()},
    }


KNOWN: dict[tuple[Resource, Key], Object] = {
    (SERVICES, Key("default", "auth")): service_object("auth", {"port": 8080}, {"port": 9090}),
    (SECRETS, Key("default", "users")): of_data("users", auth=f"a:{DIGEST}\nb:$2y$05$abc:note\n\nc:{APACHE}"),
    (SECRETS, Key("default", "map")): of_data("map", b=DIGEST),
    (SECRETS, Key("default", "wrong")): of_data("wrong", users="x"),
    (CONFIGMAPS, Key("default", "headers")): {"data": {"X-A": "1"}},
}


def routing(*ingresses: Object, config: dict[str, str] | None = None) -> Routing:
    known = {**KNOWN, (CONFIGMAPS, Key("ingress-nginx", "ingress-nginx-controller")): {"data": config or {}}}
    return dialect_of("k8s.io/ingress-nginx")(ingresses, lambda resource, key: known.get((resource, key)))


def one(*paths: dict[str, Any], host: str | None = "h", name: str = "i", **annotations: str) -> Object:
    """An Ingress; annotations with underscores for hyphens."""
    tls = [{"hosts": [host]}] if annotations.pop("tls", "") else []
    given = {PREFIX + key.replace("_", "-"): value for key, value in annotations.items()}
    return ingress(name, rule(host, *paths or (path("/", "s"),)), annotations=given, tls=tls)


def rules_of(found: Routing, host: str = "h") -> tuple[Rule, ...]:
    (table,) = found.tables.values()
    return next(each.rules for each in table.hosts if each.name == host)


def only(*paths: dict[str, Any], **annotations: str) -> Rule:
    """The rule of an Ingress with one path."""
    found = routing(one(*paths, **annotations))
    assert not found.problems
    (rule,) = rules_of(found)
    return rule


def upstream(rule: Rule) -> Upstream:
    assert isinstance(rule.action, Forward)
    (share,) = rule.action.shares
    assert share.upstream is not None
    return share.upstream


def told(found: Routing) -> list[tuple[str, str]]:
    return [(problem.reason, problem.message) for problem in found.problems]


# --- one location -----------------------------------------------------------------------------------------------


def test_what_holds_without_annotations() -> None:
    """Upstream's defaults."""
    treatment = only().treatment
    assert (treatment.body_limit, treatment.retry, treatment.https_only) == (2**20, Retry(3), None)
    assert upstream(only()) == Upstream(Backend("default", "s", 80))


STAY = Cookie("INGRESSCOOKIE", "/")
MINE = Cookie("c", "/x", 5, (("Domain", "d"), ("SameSite", "Lax"), ("Secure", "")))


@pytest.mark.parametrize(
    ("annotations", "field", "wanted"),
    [
        ({"upstream_vhost": "v"}, "rewrite", Rewrite(host="v")),
        ({"proxy_body_size": "8m"}, "body_limit", 8 * 2**20),
        ({"proxy_body_size": "2K"}, "body_limit", 2048),
        ({"proxy_body_size": "0"}, "body_limit", None),
        ({"proxy_request_buffering": "off"}, "body_streamed", True),
        ({"backend_protocol": "GRPC"}, "body_streamed", True),
        ({"proxy_read_timeout": "120"}, "idle_timeout", 120),
        ({"proxy_next_upstream": "off"}, "retry", Retry(1)),
        ({"proxy_next_upstream": "error http_502 http_503", "proxy_next_upstream_tries": "2"}, "retry",
         Retry(2, (502, 503))),
        ({"force_ssl_redirect": "true"}, "https_only", 308),
        ({"tls": "yes"}, "https_only", 308),
        ({"tls": "yes", "ssl_redirect": "false"}, "https_only", None),
        ({"preserve_trailing_slash": "true"}, "https_without_slash", False),
        ({"whitelist_source_range": "10.0.0.0/8, 192.0.2.1"}, "sources", Sources(("10.0.0.0/8", "192.0.2.1"))),
        ({"allowlist_source_range": "10.0.0.0/8", "denylist_source_range": "10.1.0.0/16"}, "sources",
         Sources(("10.0.0.0/8",), ("10.1.0.0/16",))),
        ({"auth_type": "basic", "auth_secret": "default/map", "auth_secret_type": "auth-map"}, "basic_auth",
         BasicAuth("", (("b", DIGEST),))),
        ({"auth_url": "https://auth.default.svc.cluster.local/check?a=b", "auth_response_headers": "X-A, X-B"},
         "authorization",
         Authorization(Upstream(Backend("default", "auth", 443), Protocol.HTTPS), "/check?a=b", ("X-A", "X-B"))),
        ({"auth_url": "http://auth.default:8080"}, "authorization",
         Authorization(Upstream(Backend("default", "auth", 8080)), "/")),
        ({"limit_rps": "5"}, "rate_limits", (RateLimit(5, 1, 26, 503),)),
        ({"limit_rpm": "60", "limit_rps": "2", "limit_burst_multiplier": "1"}, "rate_limits",
         (RateLimit(60, 60, 61, 503), RateLimit(2, 1, 3, 503))),
        ({"mirror_target": "http://auth.default.svc:8080$request_uri"}, "mirrors",
         (Mirror(Upstream(Backend("default", "auth", 8080)), host="auth.default.svc:8080"),)),
        ({"custom_http_errors": "404, 503", "default_backend": "auth"}, "error_pages",
         ErrorPages((404, 503), Upstream(Backend("default", "auth", 8080)),
                    (("X-Namespace", "default"), ("X-Ingress-Name", "i")))),
        ({"upstream_hash_by": "$remote_addr"}, "hash_on", (HashKey(Keyed.ADDRESS),)),
        ({"upstream_hash_by": "${request_uri}-x-$http_x_user$cookie_id$arg_q"}, "hash_on",
         (HashKey(Keyed.HEADER, ":path"), HashKey(Keyed.HEADER, "x-user"), HashKey(Keyed.COOKIE, "id"),
          HashKey(Keyed.QUERY, "q"))),
        ({"affinity": "cookie"}, "hash_on", (HashKey(Keyed.COOKIE, "INGRESSCOOKIE", STAY),)),
        ({"affinity": "cookie", "affinity_mode": "persistent", "session_cookie_name": "c", "session_cookie_path": "/x",
          "session_cookie_max_age": "5", "session_cookie_domain": "d", "session_cookie_samesite": "Lax",
          "session_cookie_secure": "true"}, "session", MINE),
    ],
)  # fmt: skip
def test_treatments(annotations: dict[str, str], field: str, wanted: object) -> None:
    assert getattr(only(**annotations).treatment, field) == wanted


@pytest.mark.parametrize(
    ("annotations", "wanted"),
    [
        ({"backend_protocol": "https"}, {"protocol": Protocol.HTTPS}),
        ({"backend_protocol": "GRPC"}, {"protocol": Protocol.H2C}),
        ({"backend_protocol": "GRPCS"}, {"protocol": Protocol.H2}),
        ({"proxy_connect_timeout": "3"}, {"connect_timeout": 3}),
        ({"load_balance": "ewma"}, {"balance": Balance.LEAST_REQUESTS}),
        ({"load_balance": "ewma", "upstream_hash_by": "$host"}, {"balance": Balance.HASH}),
        ({"affinity": "cookie", "upstream_hash_by": "$host"}, {"balance": Balance.HASH}),
        ({"service_upstream": "true"}, {"cluster_address": True}),
        ({"default_backend": "auth"}, {"spare": Backend("default", "auth", 8080)}),
    ],
)
def test_upstreams(annotations: dict[str, str], wanted: dict[str, Any]) -> None:
    assert upstream(only(**annotations)) == Upstream(Backend("default", "s", 80))._replace(**wanted)


@pytest.mark.parametrize(
    ("annotations", "wanted"),
    [
        ({"permanent_redirect": "https://a"}, Answer(301, location="https://a")),
        ({"permanent_redirect": "https://a/b?c", "permanent_redirect_code": "308"}, Answer(308, location="https://a/b?c")),
        ({"permanent_redirect": "https://a", "permanent_redirect_code": "200"}, Answer(301, location="https://a")),
        ({"temporal_redirect": "http://b", "permanent_redirect": "https://a"}, Answer(302, location="http://b")),
        ({"temporal_redirect": "http://b", "temporal_redirect_code": "307"}, Answer(307, location="http://b")),
    ],
)  # fmt: skip
def test_returns(annotations: dict[str, str], wanted: Answer) -> None:
    assert only(**annotations).action == wanted


def test_cors() -> None:
    cors = only(enable_cors="true", cors_allow_origin="https://*.a.com:4443,null", cors_max_age="0").treatment.cors
    assert cors is not None
    assert [(each.how, each.value) for each in cors.origins] == [
        (How.REGEX, r"https://[A-Za-z0-9-]+\.a\.com:4443"), (How.REGEX, "null"),
    ]  # fmt: skip
    assert (cors.credentials, cors.max_age) == (True, 0)
    everybody = only(enable_cors="true", cors_allow_origin="http://a, *").treatment.cors
    assert everybody is not None
    assert everybody.origins == (Text(How.PRESENT),)


# --- paths of a host --------------------------------------------------------------------------------------------


def paths_of(found: Routing, host: str = "h") -> list[Text]:
    return [rule.match.path for rule in rules_of(found, host)]


def test_one_rewrite_makes_expressions_of_all_paths() -> None:
    first = one(path("/a(/|$)(.*)", "s", "ImplementationSpecific"), name="a", rewrite_target="/x/$2/$3$1")
    second = one(path("/a", "s", "Exact"), path("/", "s"), name="b")
    found = routing(first, second)
    assert paths_of(found) == [
        Text(How.REGEX, "(?:/a(/|$)(.*)).*", ignore_case=True),
        Text(How.REGEX, "(?:/a).*", ignore_case=True),
        Text(How.REGEX, "(?:/).*", ignore_case=True),
    ]
    rewrites = [each.treatment.rewrite for each in rules_of(found)]
    assert rewrites == [Rewrite(substitution=r"/x/\2/\1"), None, None]  # there is no third group


def test_a_rewrite_to_the_same_path_is_none() -> None:
    assert only(rewrite_target="/").match.path == Text(How.PREFIX)


def test_a_told_prefix_needs_a_rewrite() -> None:
    header = HeaderChange(set=(("X-Forwarded-Prefix", "/p"),))
    assert only(path("/a", "s"), rewrite_target="/", x_forwarded_prefix="/p").treatment.request_headers == header
    assert only(path("/a", "s"), x_forwarded_prefix="/p").treatment.request_headers == HeaderChange()


def test_expressions_that_cannot_be_matched() -> None:
    bad = one(path("/(?!x)", "s", "ImplementationSpecific"), path("/ok", "s"), use_regex="true")
    found = routing(bad)
    assert [each.value for each in paths_of(found)] == ["(?:/ok).*"]
    ((reason, message),) = told(found)
    assert reason == "Rejected"
    assert 'spec.rules[0].http.paths[0].path: "/(?!x)": "(?!"' in message


def test_app_root_comes_first() -> None:
    first, second = rules_of(routing(one(app_root="/app")))
    assert (first.match.path, first.action) == (Text(How.EXACT, "/"), Redirect(302, path="/app", query=False))
    assert isinstance(second.action, Forward)


def test_hosts_beside() -> None:
    found = routing(
        one(host="www.a", name="a", from_to_www_redirect="true"),
        one(host="b", name="b", from_to_www_redirect="true", server_alias="c, *.d, www.a"),
        one(host="e", name="e", from_to_www_redirect="true"),
        one(host="www.e", name="f"),
    )
    actions = {host.name: host.rules[0].action for host in found.tables["ingress"].hosts if host.rules}
    assert actions["a"] == Redirect(308, host="www.a")
    assert actions["www.b"] == Redirect(308, host="b")
    assert actions["c"] == actions["*.d"] == actions["b"]
    assert isinstance(actions["www.a"], Forward)  # has an Ingress of its own
    assert isinstance(actions["www.e"], Forward)


def test_tls_passed_through() -> None:
    found = routing(one(path("/", "s"), path("/x", "t"), ssl_passthrough="true", tls="yes"))
    _, tls = found.entrances
    (stream,) = tls.streams
    assert (stream.hosts, stream.shares[0].upstream) == (("h",), Upstream(Backend("default", "s", 80), Protocol.TCP))
    assert not tls.certificates


def test_the_older_ingress_has_a_path() -> None:
    ((reason, message),) = told(routing(one(path("/p/", "mine"), name="a"), one(path("/p", "theirs"), name="b")))
    assert reason == "Conflict"
    assert "spec.rules[0].http.paths[0]: h/p (Prefix): Ingress default/a, which is older, sends it to" in message


def test_default_backends_are_treated_like_paths() -> None:
    obj = ingress("i", rule("h"), default="s", annotations={f"{PREFIX}proxy-read-timeout": "7"})
    for host in ("h", ANY_HOST):
        (rule_,) = rules_of(routing(obj), host)
        assert rule_.treatment.idle_timeout == 7


# --- canaries ---------------------------------------------------------------------------------------------------


def shares(rule: Rule) -> dict[str, int]:
    assert isinstance(rule.action, Forward)
    return {share.upstream.backend.service: share.weight for share in rule.action.shares if share.upstream}


def canary(main: Object, **annotations: str) -> list[tuple[list[tuple[str, Text]], dict[str, int]]]:
    """Conditions, and who has how much of what fulfils them."""
    found = rules_of(routing(main, one(path("/", "new"), name="canary", canary="true", **annotations)))
    return [([(each.name, each.text) for each in rule.match.headers], shares(rule)) for rule in found]


def test_header_then_cookie_then_weight() -> None:
    found = canary(one(), canary_by_header="X-C", canary_by_cookie="cc", canary_weight="30", canary_weight_total="200")
    assert [(conditions[0][0] if conditions else "", who) for conditions, who in found] == [
        ("x-c", {"new": 1}), ("x-c", {"s": 1}), ("cookie", {"new": 1}), ("cookie", {"s": 1}),
        ("", {"s": 170, "new": 30}),
    ]  # fmt: skip
    assert [text for conditions, _ in found for _, text in conditions][:2] == [
        Text(How.EXACT, "always"), Text(How.EXACT, "never"),
    ]  # fmt: skip


def test_values_of_the_header() -> None:
    by_value = canary(one(), canary_by_header="X-C", canary_by_header_value="yes", canary_by_header_pattern="no")
    assert by_value == [([("x-c", Text(How.EXACT, "yes"))], {"new": 1}), ([], {"s": 100, "new": 0})]
    by_pattern = canary(one(), canary_by_header="X-C", canary_by_header_pattern="a+")
    assert by_pattern[0] == ([("x-c", Text(How.REGEX, ".*(?:a+).*"))], {"new": 1})


def test_clients_with_affinity_stay_on_their_side() -> None:
    main = one(affinity="cookie")
    sticky = canary(main, canary_weight="30")
    assert [who for _, who in sticky] == [{"new": 1}, {"s": 1}, {"s": 70, "new": 30}]
    found = rules_of(routing(main, one(path("/", "new"), name="canary", canary="true", canary_weight="30")))
    last = found[-1].action
    assert isinstance(last, Forward)
    assert [share.response_headers.add for share in last.shares] == [
        (("Set-Cookie", f"INGRESSCOOKIE-side={side}; Path=/; HttpOnly"),) for side in ("main", "canary")
    ]
    assert canary(main, canary_weight="30", affinity_canary_behavior="legacy") == [([], {"s": 70, "new": 30})]


def test_a_canary_has_no_rules_of_its_own() -> None:
    found = routing(one(path("/x", "s")), one(path("/y", "new"), name="canary", canary="true", canary_weight="10"))
    assert [rule.match.path.value for rule in rules_of(found)] == ["/x"]
    ((reason, message),) = told(found)
    assert reason == "Rejected"
    assert "h/y: a canary counts only where another Ingress has the same host and path" in message


# --- what is told -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotations", "reason", "text"),
    [
        ({"ssl_redirect": "maybe"}, "InvalidAnnotation", 'ssl-redirect: "maybe": must be "true" or "false"; it is'),
        ({"proxy_body_size": "8 MB"}, "InvalidAnnotation", "must be a size"),
        ({"proxy_read_timeout": "5s"}, "InvalidAnnotation", "must be a whole number of 1 or more"),
        ({"backend_protocol": "SMTP"}, "InvalidAnnotation", "must be one of HTTP, HTTPS, GRPC, GRPCS, AUTO_HTTP, FCGI"),
        ({"backend_protocol": "FCGI"}, "NotEmulated", "backends are spoken to in HTTP"),
        ({"app_root": "app"}, "InvalidAnnotation", "must be an absolute path"),
        ({"affinity": "ip"}, "InvalidAnnotation", 'must be "cookie"'),
        ({"canary_weight": "5"}, "InvalidAnnotation", 'counts with annotation canary: "true" only'),
        ({"default_backend": "nobody"}, "InvalidAnnotation", "must be the name of a Service of namespace default"),
        ({"upstream_hash_by": "$geoip_city"}, "NotEmulated", "$geoip_city: known are"),
        ({"mirror_target": "https://example.org$request_uri"}, "NotEmulated", "example.org is no Service of this"),
        ({"server_alias": "~^a"}, "NotEmulated", "regular expressions of hosts"),
        ({"rewrite_target": "/a b"}, "InvalidAnnotation", "must be a path of"),
        ({"enable_modsecurity": "true"}, "NotEmulated", "enable-modsecurity is not emulated: it has no effect"),
        ({"enable_cors": "true", "cors_allow_origin": "a.com"}, "InvalidAnnotation", "must be SCHEME://HOST"),
        ({"session_cookie_change_on_failure": "true"}, "NotEmulated", "has no effect"),
        ({"custom_http_errors": "404"}, "NotEmulated", "name the Service that has the pages"),
        ({"custom_http_errors": "200"}, "InvalidAnnotation", "must be codes of 400 to 599"),
        ({"limit_connections": "3"}, "NotEmulated", "limit-connections is not emulated: it has no effect"),
    ],
)  # fmt: skip
def test_values_that_are_not_followed(annotations: dict[str, str], reason: str, text: str) -> None:
    found = routing(one(**annotations))
    assert [each for each in told(found) if each[0] == reason and text in each[1]], told(found)
    assert isinstance(rules_of(found)[0].action, Forward)  # as if it were not there


@pytest.mark.parametrize(
    ("annotations", "text"),
    [
        ({"whitelist_source_range": "everybody"}, "'everybody' does not appear to be"),
        ({"auth_type": "digest", "auth_secret": "users"}, 'only "basic" is emulated'),
        ({"auth_type": "basic"}, "is missing: name a Secret"),
        ({"auth_type": "basic", "auth_secret": "nobody"}, "there is no Secret default/nobody"),
        ({"auth_type": "basic", "auth_secret": "other/users"}, "Secrets of other namespaces are out of reach"),
        ({"auth_type": "basic", "auth_secret": "wrong"}, "the Secret has no key auth"),
        ({"auth_url": "https://example.org/check"}, "example.org is no Service of this cluster"),
        ({"auth_url": "http://$host/check"}, 'must be "http://NAME.NAMESPACE.svc.cluster.local/PATH"'),
        ({"auth_tls_secret": "default/ca"}, "clients are not asked for certificates"),
        ({"custom_headers": "default/headers"}, "global-allowed-response-headers of the ConfigMap does not have X-A"),
        ({"custom_headers": "default/nobody"}, "must be NAMESPACE/NAME of a ConfigMap"),
    ],
)
def test_what_keeps_out_lets_nobody_in(annotations: dict[str, str], text: str) -> None:
    found = routing(one(**annotations))
    assert [reason for reason, message in told(found) if text in message] == ["Denied"]
    assert [rule.action for rule in rules_of(found)] == [Answer(503)]


@pytest.mark.parametrize(
    "annotations",
    [{"configuration_snippet": "x"}, {"server_snippet": "x"}, {"permanent_redirect": "ftp://a"}],
)
def test_ingresses_that_are_not_taken(annotations: dict[str, str]) -> None:
    found = routing(one(**annotations))
    assert [reason for reason, _ in told(found)] == ["Rejected"]
    assert [host.name for host in found.tables["ingress"].hosts] == [ANY_HOST]


def test_passwords_that_cannot_be_compared() -> None:
    found = routing(one(auth_type="basic", auth_secret="users", auth_realm="r"))
    assert rules_of(found)[0].treatment.basic_auth == BasicAuth("r", (("a", DIGEST), ("c", APACHE)))
    ((reason, message),) = told(found)
    assert reason == "NotEmulated"
    assert "user b: only hashes by MD5 and SHA-1" in message


@pytest.mark.parametrize("name", sorted(followed_orders() & set(ANNOTATIONS)))
def test_what_the_documentation_promises_is_followed(name: str) -> None:
    found = routing(one(**{name.replace("-", "_"): "1"}))
    assert not [text for _, text in told(found) if text.endswith(f"{name} is not emulated: it has no effect")]


def test_all_annotations_are_in_the_documentation_or_told() -> None:
    given = {name.replace("-", "_"): "strange" for name in ANNOTATIONS if not name.endswith("-snippet")}
    del given["permanent_redirect"], given["temporal_redirect"]  # nothing of the Ingress would be taken
    words = " ".join(text for _, text in told(routing(one(**given))))
    silent_ones = {name for name in (each.replace("_", "-") for each in given) if f"/{name}" not in words}
    assert silent_ones <= followed_orders() | LIKE_OTHERS


def silent(names: Iterable[str]) -> Object:
    return one(**{name.replace("-", "_"): "1k" for name in names})


def test_what_is_about_the_inside_of_nginx_is_not_told() -> None:
    assert told(routing(silent(["client-body-buffer-size", "proxy-buffer-size", "proxy-max-temp-file-size"]))) == []
    assert told(routing(one(proxy_http_version="1.1", satisfy="all", proxy_ssl_verify="off"))) == []
    others = ingress("i", rule("h"), annotations={"alb.ingress.kubernetes.io/scheme": "internal"})
    assert [reason for reason, _ in told(routing(others))] == ["NotEmulated"]


# --- the ConfigMap ----------------------------------------------------------------------------------------------


def test_defaults_of_the_configmap() -> None:
    config = {
        "ssl-redirect": "false", "proxy-body-size": "4k", "proxy-read-timeout": "9", "limit-req-status-code": "429",
        "global-allowed-response-headers": "X-A,X-B", "worker-processes": "4",
    }  # fmt: skip
    found = routing(one(tls="yes", limit_rps="1", custom_headers="default/headers"), config=config)
    assert not found.problems
    (rule_,) = rules_of(found)
    treatment = rule_.treatment
    assert (treatment.https_only, treatment.body_limit, treatment.idle_timeout) == (None, 4096, 9)
    assert treatment.rate_limits[0].status == 429
    assert treatment.response_headers == HeaderChange(set=(("X-A", "1"),))


def test_other_keys_of_the_configmap_are_told() -> None:
    found = routing(config={"gzip-level": "5", "ssl-redirect": "no", "proxy-body-size": "?"})
    at = "ConfigMap ingress-nginx/ingress-nginx-controller: data"
    size = 'must be a size: a whole number, and "k", "m" or "g" behind it if need be'
    assert told(found) == [
        ("NotEmulated", f"{at}[gzip-level] is not emulated: it has no effect"),
        ("InvalidValue", f'{at}[proxy-body-size]: "?": {size}'),
        ("InvalidValue", f'{at}[ssl-redirect]: "no": must be "true" or "false"'),
    ]  # fmt: skip


def test_snippets_that_the_configmap_allows_are_told() -> None:
    found = routing(one(configuration_snippet="x"), config={"allow-snippet-annotations": "true"})
    assert isinstance(rules_of(found)[0].action, Forward)
    assert [reason for reason, _ in told(found)] == ["NotEmulated"]


def test_proxies_before_the_controller() -> None:
    assert {each.trusted_hops for each in routing(config={"use-forwarded-headers": "true"}).entrances} == {1}
    assert {each.trusted_hops for each in routing().entrances} == {0}
    assert all(each.proxy_protocol for each in routing(config={"use-proxy-protocol": "true"}).entrances)
    assert not any(each.proxy_protocol for each in routing().entrances)
