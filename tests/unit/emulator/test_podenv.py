"""The environment of a container, by the kubelet's rules."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from kmn import environment
from kmn.emulator.podenv import ConfigError, container_environment, expand, service_variables
from kmn.k8s.objects import Object

POD: Object = {
    "metadata": {
        "name": "web",
        "namespace": "shop",
        "uid": "u-1",
        "labels": {"app": "web"},
        "annotations": {"example.com/a": "b"},
    },
    "spec": {"nodeName": "n1", "containers": [{"name": "c"}]},
    "status": {"podIP": "10.244.0.2", "podIPs": [{"ip": "10.244.0.2"}], "hostIP": "172.18.0.2"},
}
CONFIG = {"level": "debug", "a.b": "dotted", "9lives": "no name"}
OBJECTS: dict[tuple[str, str, str], Object] = {
    ("ConfigMap", "shop", "settings"): {"data": CONFIG},
    ("Secret", "shop", "key"): {"data": {"token": base64.b64encode(b"s3cret").decode()}},
}
SERVICES = {"WEB_SERVICE_HOST": "10.96.0.7", "level": "of a Service"}


def made(**container: Any) -> dict[str, str]:
    return container_environment(POD, {"name": "c", **container}, SERVICES, _look_up).variables


def own(**container: Any) -> dict[str, str]:
    return {name: value for name, value in made(**container).items() if name not in SERVICES}


def _look_up(kind: str, namespace: str, name: str) -> Object | None:
    return OBJECTS.get((kind, namespace, name))


def service(name: str, address: str | None, *ports: dict[str, Any], **spec: Any) -> Object:
    return {"metadata": {"name": name, "namespace": "shop"}, "spec": {"clusterIP": address, "ports": [*ports], **spec}}


def test_variables_of_a_service() -> None:
    ports = {"name": "http-web", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}
    assert service_variables([service("my-web", "10.96.0.7", *ports)]) == {
        "MY_WEB_SERVICE_HOST": "10.96.0.7",
        "MY_WEB_SERVICE_PORT": "80",
        "MY_WEB_SERVICE_PORT_HTTP_WEB": "80",
        "MY_WEB_SERVICE_PORT_DNS": "53",
        "MY_WEB_PORT": "tcp://10.96.0.7:80",
        "MY_WEB_PORT_80_TCP": "tcp://10.96.0.7:80",
        "MY_WEB_PORT_80_TCP_PROTO": "tcp",
        "MY_WEB_PORT_80_TCP_PORT": "80",
        "MY_WEB_PORT_80_TCP_ADDR": "10.96.0.7",
        "MY_WEB_PORT_53_UDP": "udp://10.96.0.7:53",
        "MY_WEB_PORT_53_UDP_PROTO": "udp",
        "MY_WEB_PORT_53_UDP_PORT": "53",
        "MY_WEB_PORT_53_UDP_ADDR": "10.96.0.7",
    }
    assert service_variables([service("six", "fd00::7", {"port": 80})])["SIX_PORT"] == "tcp://[fd00::7]:80"


def test_services_without_an_address_have_none() -> None:
    port = {"port": 80}
    without = [
        service("headless", "None", port),
        service("pending", None, port),
        service("name", "10.96.0.8", port, type="ExternalName"),
    ]
    assert service_variables(without) == {}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)-$(B)", "1-2"),
        ("$(C)", "$(C)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A $ $", "$A $ $"),
        ("$(A", "$(A"),
        ("$()", "$()"),
    ],
)
def test_references_to_other_variables(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}.get) == expanded


def test_own_variables_see_those_before_them_and_services() -> None:
    env = [
        {"name": "A", "value": "x"},
        {"name": "B", "value": "$(A)/$(WEB_SERVICE_HOST)/$(LATER)"},
        {"name": "LATER", "value": "y"},
        {"name": "EMPTY"},
        {"name": "WEB_SERVICE_HOST", "value": "mine"},
    ]
    assert made(env=env) == {
        "A": "x",
        "B": "x/10.96.0.7/$(LATER)",
        "LATER": "y",
        "EMPTY": "",
        "WEB_SERVICE_HOST": "mine",
        "level": "of a Service",
    }


def test_from_whole_objects_with_a_prefix() -> None:
    from_env = [{"configMapRef": {"name": "settings"}}, {"prefix": "S_", "secretRef": {"name": "key"}}]
    found = container_environment(POD, {"name": "c", "envFrom": from_env}, SERVICES, _look_up)
    assert found.variables == {
        "WEB_SERVICE_HOST": "10.96.0.7",
        "level": "debug",
        "a.b": "dotted",
        "S_token": "s3cret",
    }
    assert found.skipped == ["keys [9lives] of ConfigMap shop/settings are no names of environment variables"]
    assert made(envFrom=from_env, env=[{"name": "level", "value": "$(level)!"}])["level"] == "debug!"


def test_single_keys_and_fields() -> None:
    def entry(name: str, **source: Any) -> dict[str, Any]:
        return {"name": name, "valueFrom": source}

    fields = {
        "metadata.name": "web",
        "metadata.namespace": "shop",
        "metadata.uid": "u-1",
        "metadata.labels['app']": "web",
        "metadata.annotations['example.com/a']": "b",
        "metadata.labels['none']": "",
        "spec.nodeName": "n1",
        "spec.serviceAccountName": "default",
        "status.hostIP": "172.18.0.2",
        "status.podIP": "10.244.0.2",
        "status.podIPs": "10.244.0.2",
    }
    env = [entry(f"F{i}", fieldRef={"fieldPath": path}) for i, path in enumerate(fields)]
    assert own(env=env) == {f"F{i}": value for i, value in enumerate(fields.values())}
    keys = [
        entry("A", configMapKeyRef={"name": "settings", "key": "level"}),
        entry("B", secretKeyRef={"name": "key", "key": "token"}),
        entry("C", configMapKeyRef={"name": "settings", "key": "none", "optional": True}),
        entry("D", secretKeyRef={"name": "none", "key": "x", "optional": True}),
    ]
    assert own(env=keys) == {"A": "debug", "B": "s3cret"}


@pytest.mark.parametrize(
    ("container", "told"),
    [
        ({"envFrom": [{"configMapRef": {"name": "none"}}]}, 'configmap "none" not found'),
        ({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k"}}}]}, 'secret "none" not'),
        (
            {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}}]},
            "couldn't find key k in Secret shop/key",
        ),
    ],
)
def test_what_is_missing_keeps_a_container_from_starting(container: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        made(**container)
    optional = {"envFrom": [{"configMapRef": {"name": "none", "optional": True}}]}
    assert own(**optional) == {}


def test_what_is_not_emulated_is_named() -> None:
    env = [{"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]
    found = container_environment(POD, {"name": "c", "env": env}, {}, _look_up)
    assert (found.variables, found.not_emulated) == ({}, ["env CPU: valueFrom resourceFieldRef"])


@pytest.mark.parametrize("name", ["PATH", "LD_PRELOAD", "BASH_ENV", "BASH_FUNC_ls%%", "PYTHONPATH", "GIT_SSH"])
def test_what_steers_programs_is_withheld(name: str) -> None:
    assert environment.steers(name)


@pytest.mark.parametrize(
    "name", ["WEB_SERVICE_HOST", "HOSTNAME", "PORT", "http_proxy", "LOG_LEVEL", "DATABASE_URL", "a.b"]
)
def test_what_says_something_to_a_program_is_not(name: str) -> None:
    assert not environment.steers(name)


def test_files_are_roots_alone(tmp_path: Path) -> None:
    file = tmp_path / "env" / "pod.json"
    assert environment.read(file) == {}
    environment.write(file, "b", {"a": {"X": "1"}, "b": {"X": "2"}})
    assert file.stat().st_mode & 0o777 == 0o600
    assert (environment.read(file), environment.read(file, "a")) == ({"X": "2"}, {"X": "1"})
    assert environment.read(file, "c") == {}
