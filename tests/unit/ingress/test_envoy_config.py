"""Parts of Envoy's configuration, as they are to be."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ingress_objects import ingress, path, rule

from kmn.ingress.backends import Endpoints
from kmn.ingress.certificates import KeyPair
from kmn.ingress.dialects import dialect_of
from kmn.ingress.envoy.config import Config, config_of
from kmn.ingress.envoy.listeners import Certificates, listener
from kmn.ingress.model import Backend, Entrance, Protocol, Upstream
from kmn.k8s.objects import Key, Object

DEFAULT = KeyPair("default certificate", "default key")
PAIR = KeyPair("certificate", "key")


def configured(*ingresses: Object, pairs: Iterable[Key] = (), **endpoints: Any) -> Config:
    routing = dialect_of("")(ingresses, lambda resource, key: None)
    ends = {up: Endpoints(endpoints.get(up.backend.service, ())) for up in sorted(routing.upstreams(), key=str)}
    return config_of(routing, ends, dict.fromkeys(pairs, PAIR), DEFAULT)


def routes(config: Config) -> dict[str, list[tuple[Any, Any]]]:
    """Matches and where they lead, by the domain of their virtual host."""
    found = {}
    for host in config.routes["ingress"]["virtual_hosts"]:
        (domain,) = host["domains"]
        found[domain] = [
            (each["match"], each["route"]["cluster"] if "route" in each else each["direct_response"]["status"])
            for each in host["routes"]
        ]
    return found


def test_paths_of_a_host() -> None:
    config = configured(
        ingress("i", rule("a", path("/", "r"), path("/p/", "p"), path("/e", "e", "Exact")), default="d")
    )
    assert routes(config) == {
        "a": [
            ({"path": "/e"}, "default/e:80"),
            ({"path_separated_prefix": "/p"}, "default/p:80"),
            ({"prefix": "/"}, "default/r:80"),
            ({"prefix": "/"}, "default/d:80"),
        ],
        "*": [({"prefix": "/"}, "default/d:80")],
    }


def test_a_wildcard_is_one_label() -> None:
    """Envoy's is any number of them: what has more goes where hosts go that nobody has."""
    config = configured(ingress("i", rule("*.foo.com", path("/p", "w")), rule(None, path("/", "any"))))
    (first, guarded), (second, refused), last = routes(config)["*.foo.com"]
    assert (guarded, refused, last) == ("default/w:80", 404, ({"prefix": "/"}, "default/any:80"))
    assert first["headers"] == second["headers"]
    (header,) = first["headers"]
    pattern = header["string_match"]["safe_regex"]["regex"]
    hosts = ["a.foo.com", "A.Foo.com:80", "a.b.foo.com", "foo.com", "a.foo.com.evil", "axfoo.com"]
    assert [bool(re.fullmatch(pattern, host)) for host in hosts] == [True, True, False, False, False, False]
    assert header["name"] == ":authority"


def test_endpoints_of_a_cluster() -> None:
    config = configured(ingress("i", rule("a", path("/", "s"), path("/n", "none"))), s=(("10.244.0.2", 8080),))
    ends = {
        name: [
            tuple(end["endpoint"]["address"]["socket_address"].values())
            for group in cluster["load_assignment"]["endpoints"]
            for end in group["lb_endpoints"]
        ]
        for name, cluster in config.clusters.items()
    }
    assert ends == {"default/s:80": [("10.244.0.2", 8080)], "default/none:80": []}


def certificate_of(chain: Any) -> Any:
    context = chain["transport_socket"]["typed_config"]["common_tls_context"]
    return {name: value for name, value in context.items() if name.startswith("tls_")}


def test_certificates_are_chosen_by_name_and_read_from_files() -> None:
    tls = [{"hosts": ["a.example", "*.b.example"], "secretName": "s"}, {"hosts": ["c.example"], "secretName": "none"}]
    config = configured(ingress("i", tls=tls), pairs=[Key("default", "s")])
    http, https = config.listeners
    assert [each["address"]["socket_address"]["port_value"] for each in (http, https)] == [80, 443]
    chains = {each["filter_chain_match"]["server_names"][0]: each for each in https["filter_chains"]}
    assert set(chains) == {"a.example", "*.b.example"}
    (source,) = certificate_of(chains["a.example"])["tls_certificate_sds_secret_configs"]
    file = source["sds_config"]["path_config_source"]["path"].removeprefix("./")
    assert config.secrets[file]["tls_certificate"]["private_key"] == {"inline_string": "key"}
    (source,) = certificate_of(https["default_filter_chain"])["tls_certificate_sds_secret_configs"]
    assert source["name"] == "default"


def test_a_new_certificate_changes_its_file_alone() -> None:
    obj = ingress("i", tls=[{"hosts": ["a"], "secretName": "s"}])
    routing = dialect_of("")([obj], lambda resource, key: None)
    before, after = (
        config_of(routing, {}, {Key("default", "s"): pair}, DEFAULT) for pair in (PAIR, KeyPair("new", "new"))
    )
    assert (before.listeners, before.routes, before.clusters) == (after.listeners, after.routes, after.clusters)
    assert len([name for name in after.secrets if before.secrets[name] != after.secrets[name]]) == 1


def test_more_certificates_than_can_be_watched_are_in_the_listener() -> None:
    names = [f"s{number}" for number in range(100)]
    obj = ingress("i", tls=[{"hosts": [name], "secretName": name} for name in names])
    config = configured(obj, pairs=[Key("default", name) for name in names])
    assert len(config.secrets) == 32
    certificates = [certificate_of(chain) for chain in config.listeners[1]["filter_chains"]]
    assert [list(each) for each in certificates] == [
        ["tls_certificate_sds_secret_configs"] if number < 31 else ["tls_certificates"] for number in range(100)
    ]


def test_backends_have_names_of_their_own() -> None:
    number, name = Backend("a", "b", 80), Backend("a", "b", "http")
    upstreams = [Upstream(number), Upstream(name), Upstream(number, Protocol.H2C), Upstream(number, connect_timeout=2)]
    assert [str(each) for each in upstreams] == ["a/b:80", "a/b:http", "a/b:80 h2c", "a/b:80 connect_timeout=2"]


def test_what_comes_before_a_proxy() -> None:
    entrance = Entrance(80, "t", proxy_protocol=True, trusted_hops=2)
    found = listener(entrance, Certificates(DEFAULT, {}))
    assert [each["name"] for each in found["listener_filters"]] == ["envoy.filters.listener.proxy_protocol"]
    manager = found["filter_chains"][0]["filters"][0]["typed_config"]
    assert manager["xff_num_trusted_hops"] == 2
