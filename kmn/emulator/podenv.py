"""The environment of a container, as the kubelet makes it (``makeEnvironmentVariables``): from its manifest, from
ConfigMaps and Secrets, and from the Services that there are at its start. Pure.

A container's own ``env`` goes before ``envFrom``, both before the variables of Services.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from kmn.k8s import objects
from kmn.k8s.objects import Object, name_of, namespace_of, uid_of

__all__ = ["ConfigError", "Environment", "container_environment", "expand", "service_variables"]

_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['(.*)'\]")
_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")

# Kind ("ConfigMap" or "Secret"), namespace, name: the object, None if there is none.
Lookup = Callable[[str, str, str], Object | None]


class ConfigError(Exception):
    """What the manifest refers to is not there: the container cannot start."""


@dataclass(slots=True)
class Environment:
    """The variables, and what could not be made of the manifest, in words."""

    variables: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)  # keys of envFrom that are no names of variables
    not_emulated: list[str] = field(default_factory=list)


def container_environment(pod: Object, container: Object, services: Mapping[str, str], lookup: Lookup) -> Environment:
    """All variables of a container. ``services`` are those that Services make; raises :class:`ConfigError`."""
    made = Environment()
    own = made.variables
    for source in container.get("envFrom") or ():
        own.update(_all_keys(pod, source, lookup, made))
    for entry in container.get("env") or ():
        name, value = entry["name"], entry.get("value")
        if value:
            own[name] = expand(value, lambda wanted: own.get(wanted, services.get(wanted)))
        elif "valueFrom" not in entry:
            own[name] = ""
        else:
            found = _value_from(pod, name, entry["valueFrom"], lookup, made)
            if found is not None:
                own[name] = found
    made.variables = {**services, **own}
    return made


def expand(text: str, value: Callable[[str], str | None]) -> str:
    """``$(NAME)`` becomes the variable's value; of an unknown one it stays. ``$$`` is a dollar sign."""

    def replaced(match: re.Match[str]) -> str:
        if match[1] is None:
            return "$"
        found = value(match[1])
        return match[0] if found is None else found

    return _REFERENCE.sub(replaced, text)


# --- references ------------------------------------------------------------------------------------------------------


def _all_keys(pod: Object, source: Object, lookup: Lookup, made: Environment) -> Iterator[tuple[str, str]]:
    for field_name, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
        reference = source.get(field_name)
        if reference is None:
            continue
        obj = _object(pod, kind, reference, lookup)
        names = {f"{source.get('prefix') or ''}{key}": value for key, value in _data(kind, obj).items()}
        bad = sorted(name for name in names if not _NAME.fullmatch(name))
        if bad:
            where = f"{kind} {namespace_of(pod)}/{reference['name']}"
            made.skipped.append(f"keys [{', '.join(bad)}] of {where} are no names of environment variables")
        yield from ((name, value) for name, value in names.items() if name not in bad)


def _value_from(pod: Object, name: str, source: Object, lookup: Lookup, made: Environment) -> str | None:
    """None: there is no such variable (what it refers to is optional, or not emulated)."""
    for field_name, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
        if reference := source.get(field_name):
            found = _data(kind, _object(pod, kind, reference, lookup)).get(reference["key"])
            if found is None and not reference.get("optional"):
                where = f"{kind} {namespace_of(pod)}/{reference['name']}"
                raise ConfigError(f"couldn't find key {reference['key']} in {where}")
            return found
    if reference := source.get("fieldRef"):
        found = _field(pod, reference["fieldPath"])
        if found is not None:
            return found
    made.not_emulated.append(f"env {name}: valueFrom {', '.join(source)}")
    return None


def _object(pod: Object, kind: str, reference: Object, lookup: Lookup) -> Object | None:
    obj = lookup(kind, namespace_of(pod), reference["name"])
    if obj is None and not reference.get("optional"):
        raise ConfigError(f'{kind.lower()} "{reference["name"]}" not found')
    return obj


def _data(kind: str, obj: Object | None) -> dict[str, str]:
    data = (obj or {}).get("data") or {}
    return {key: _decoded(value) for key, value in data.items()} if kind == "Secret" else dict(data)


def _decoded(value: str) -> str:
    try:
        return base64.b64decode(value).decode(errors="replace")
    except binascii.Error:
        raise ConfigError("a Secret's value is not base64") from None


def _field(pod: Object, path: str) -> str | None:
    """What ``fieldRef`` names; None for a path that it does not take."""
    spec, status = pod["spec"], pod.get("status") or {}
    if subscript := _SUBSCRIPT.fullmatch(path):
        return (objects.labels(pod) if subscript[1] == "labels" else objects.annotations(pod)).get(subscript[2], "")
    fields: dict[str, Callable[[], str]] = {
        "metadata.name": lambda: name_of(pod),
        "metadata.namespace": lambda: namespace_of(pod),
        "metadata.uid": lambda: uid_of(pod),
        "spec.nodeName": lambda: spec.get("nodeName") or "",
        "spec.serviceAccountName": lambda: spec.get("serviceAccountName") or "default",
        "status.hostIP": lambda: status.get("hostIP") or "",
        "status.hostIPs": lambda: ",".join(_addresses(status.get("hostIPs")) or [status.get("hostIP") or ""]),
        "status.podIP": lambda: status.get("podIP") or "",
        "status.podIPs": lambda: ",".join(_addresses(status.get("podIPs"))),
    }
    return fields[path]() if path in fields else None


def _addresses(entries: Iterable[Object] | None) -> list[str]:
    return [entry["ip"] for entry in entries or ()]


# --- Services --------------------------------------------------------------------------------------------------------


def service_variables(services: Iterable[Object]) -> dict[str, str]:
    """Variables of Services (``pkg/kubelet/envvars``); those without an address of their own have none."""
    made: dict[str, str] = {}
    for service in services:
        spec = service["spec"]
        address, ports = spec.get("clusterIP"), spec.get("ports") or ()
        if spec.get("type") == "ExternalName" or address in (None, "", "None") or not ports:
            continue
        prefix = _as_variable(name_of(service))
        made[f"{prefix}_SERVICE_HOST"] = address
        made[f"{prefix}_SERVICE_PORT"] = str(ports[0]["port"])
        for port in ports:
            if port.get("name"):
                made[f"{prefix}_SERVICE_PORT_{_as_variable(port['name'])}"] = str(port["port"])
        made |= _link_variables(prefix, address, ports)
    return made


def _link_variables(prefix: str, address: str, ports: Iterable[Object]) -> dict[str, str]:
    """Those that Docker's container links had."""
    made: dict[str, str] = {}
    host = f"[{address}]" if ":" in address else address
    for number, port in enumerate(ports):
        protocol = port.get("protocol") or "TCP"
        url = f"{protocol.lower()}://{host}:{port['port']}"
        if number == 0:
            made[f"{prefix}_PORT"] = url
        of_port = f"{prefix}_PORT_{port['port']}_{protocol.upper()}"
        made |= {
            of_port: url,
            f"{of_port}_PROTO": protocol.lower(),
            f"{of_port}_PORT": str(port["port"]),
            f"{of_port}_ADDR": address,
        }
    return made


def _as_variable(name: str) -> str:
    return name.replace("-", "_").upper()
