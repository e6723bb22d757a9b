"""Rules for pods and for the pod templates of workloads. After ``pkg/apis/core/validation``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from kmn.apiserver.admission.rules import (
    PROTOCOLS,
    Errors,
    dns_label,
    dns_subdomain,
    ip_address,
    label_value,
    port_name,
    port_number,
    qualified_name,
)
from kmn.k8s.objects import Object

__all__ = ["check_pod", "check_pod_spec", "port_number_or_name"]

Fields = dict[str, Any]

_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_NODE_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_MAX_NAMESERVERS, _MAX_SEARCHES = 3, 32
# What an update of a pod may change in its spec, apart from images and added tolerations.
_MUTABLE = ("activeDeadlineSeconds", "tolerations", "schedulingGates")
_CONTAINER_LISTS = ("initContainers", "containers", "ephemeralContainers")


def check_pod(errors: Errors, new: Object, old: Object | None) -> None:
    check_pod_spec(errors, "spec", new["spec"])
    if old is not None:
        _check_update(errors, new["spec"], old["spec"])


def check_pod_spec(errors: Errors, path: str, spec: Fields, claims: Iterable[str] = ()) -> None:
    """Everything about a pod's spec but what an update may change. ``claims``: volumes that a StatefulSet adds."""
    volumes = _volumes(errors, path, spec)
    _containers(errors, path, spec, volumes | set(claims))
    errors.choice(f"{path}.restartPolicy", spec["restartPolicy"], ("Always", "OnFailure", "Never"))
    _dns(errors, path, spec)
    errors.labels(f"{path}.nodeSelector", spec.get("nodeSelector"))
    _tolerations(errors, f"{path}.tolerations", spec.get("tolerations") or [])
    _affinity(errors, f"{path}.affinity", spec.get("affinity") or {})
    _spread(errors, f"{path}.topologySpreadConstraints", spec.get("topologySpreadConstraints") or [])
    for name, rule in (
        ("hostname", dns_label),
        ("subdomain", dns_label),
        ("serviceAccountName", dns_subdomain),
        ("nodeName", dns_subdomain),
    ):
        if spec.get(name):
            errors.check(f"{path}.{name}", spec[name], rule)
    if spec["terminationGracePeriodSeconds"] < 0:
        errors.invalid(
            f"{path}.terminationGracePeriodSeconds", spec["terminationGracePeriodSeconds"], "must be 0 or more"
        )
    if spec.get("activeDeadlineSeconds") is not None and spec["activeDeadlineSeconds"] < 1:
        errors.invalid(f"{path}.activeDeadlineSeconds", spec["activeDeadlineSeconds"], "must be 1 or more")
    for index, alias in enumerate(spec.get("hostAliases") or ()):
        errors.check(f"{path}.hostAliases[{index}].ip", alias["ip"], ip_address)
        for number, name in enumerate(alias.get("hostnames") or ()):
            errors.check(f"{path}.hostAliases[{index}].hostnames[{number}]", name, dns_subdomain)


# --- containers -------------------------------------------------------------------------------------------------


def _containers(errors: Errors, path: str, spec: Fields, volumes: set[str]) -> None:
    if not spec.get("containers"):
        errors.required(f"{path}.containers", "required: at least one container")
    names: dict[str, str] = {}
    host_ports: dict[tuple[str, str, int], str] = {}
    for role in _CONTAINER_LISTS:
        for index, container in enumerate(spec.get(role) or ()):
            at = f"{path}.{role}[{index}]"
            name = container["name"]
            errors.check(f"{at}.name", name, dns_label)
            if name in names:
                errors.duplicate(f"{at}.name", name, names[name])
            names.setdefault(name, f"{at}.name")
            if not container.get("image", "").strip():
                errors.required(f"{at}.image")
            _ports(errors, at, container, host_ports, spec.get("hostNetwork") is True, role)
            _probes(errors, at, container, role)
            _environment(errors, at, container)
            _mounts(errors, at, container, volumes)


def _ports(
    errors: Errors,
    path: str,
    container: Fields,
    host_ports: dict[tuple[str, str, int], str],
    host_network: bool,
    role: str,
) -> None:
    names: dict[str, str] = {}
    for index, port in enumerate(container.get("ports") or ()):
        at = f"{path}.ports[{index}]"
        name, number, host_port = port.get("name"), port["containerPort"], port.get("hostPort")
        if name:
            errors.check(f"{at}.name", name, port_name)
            if name in names:
                errors.duplicate(f"{at}.name", name, names[name])
            names.setdefault(name, f"{at}.name")
        errors.check(f"{at}.containerPort", number, port_number)
        errors.choice(f"{at}.protocol", port["protocol"], PROTOCOLS)
        if host_port:
            errors.check(f"{at}.hostPort", host_port, port_number)
            if host_network and host_port != number:
                errors.invalid(f"{at}.hostPort", host_port, f"must be the containerPort ({number}) with hostNetwork")
            if role == "containers":
                key = (port["protocol"], port.get("hostIP", ""), host_port)
                if key in host_ports:
                    errors.duplicate(f"{at}.hostPort", host_port, host_ports[key])
                host_ports.setdefault(key, f"{at}.hostPort")


def _probes(errors: Errors, path: str, container: Fields, role: str) -> None:
    sidecar = role == "initContainers" and container.get("restartPolicy") == "Always"
    for name in _PROBES:
        probe = container.get(name)
        if probe is None:
            continue
        at = f"{path}.{name}"
        if role != "containers" and not sidecar:
            errors.forbidden(at, f"{role} have no probes: remove it")
            continue
        _handler(errors, at, probe)
        for field in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"):
            if probe.get(field, 0) < 0:
                errors.invalid(f"{at}.{field}", probe[field], "must be 0 or more")
        if name != "readinessProbe" and probe["successThreshold"] != 1:
            errors.invalid(f"{at}.successThreshold", probe["successThreshold"], f"must be 1 in a {name}")
        grace = probe.get("terminationGracePeriodSeconds")
        if grace is not None and (name == "readinessProbe" or grace < 1):
            errors.invalid(
                f"{at}.terminationGracePeriodSeconds", grace, "must be 1 or more, and not in a readinessProbe"
            )
    for name, hook in (container.get("lifecycle") or {}).items():
        if isinstance(hook, dict):
            _handler(errors, f"{path}.lifecycle.{name}", hook, ("exec", "httpGet", "tcpSocket", "sleep"))


def _handler(errors: Errors, path: str, handler: Fields, kinds: tuple[str, ...] = _HANDLERS) -> None:
    given = [kind for kind in kinds if handler.get(kind) is not None]
    if not given:
        errors.required(path, f"required: one of {', '.join(kinds)}")
    for kind in given[1:]:
        errors.forbidden(f"{path}.{kind}", f"there is {given[0]} already: exactly one of {', '.join(kinds)}")
    if handler.get("exec") is not None and not handler["exec"].get("command"):
        errors.required(f"{path}.exec.command")
    for kind in ("httpGet", "tcpSocket", "grpc"):
        if handler.get(kind) is not None:
            port_number_or_name(errors, f"{path}.{kind}.port", handler[kind]["port"])
    http = handler.get("httpGet")
    if http is not None:
        errors.choice(f"{path}.httpGet.scheme", http["scheme"], ("HTTP", "HTTPS"))


def port_number_or_name(errors: Errors, path: str, port: int | str) -> None:
    errors.check(path, port, port_name if isinstance(port, str) else port_number)


def _environment(errors: Errors, path: str, container: Fields) -> None:
    for index, variable in enumerate(container.get("env") or ()):
        at = f"{path}.env[{index}]"
        name = variable["name"]
        if not name or "=" in name or not name.isascii() or not name.isprintable():
            errors.invalid(f"{at}.name", name, 'must be printable ASCII characters without "="')
        source = variable.get("valueFrom")
        if source is not None:
            if variable.get("value"):
                errors.forbidden(f"{at}.valueFrom", "there is a value already: one of value, valueFrom")
            if len(source) != 1:
                errors.invalid(f"{at}.valueFrom", sorted(source), "must have exactly one source")


def _volumes(errors: Errors, path: str, spec: Fields) -> set[str]:
    names: dict[str, str] = {}
    for index, volume in enumerate(spec.get("volumes") or ()):
        at = f"{path}.volumes[{index}]"
        errors.check(f"{at}.name", volume["name"], dns_label)
        if volume["name"] in names:
            errors.duplicate(f"{at}.name", volume["name"], names[volume["name"]])
        names.setdefault(volume["name"], f"{at}.name")
        if len(volume) > 2:
            errors.forbidden(at, f"more than one source: {', '.join(sorted(set(volume) - {'name'}))}")
    return set(names)


def _mounts(errors: Errors, path: str, container: Fields, volumes: set[str]) -> None:
    places: set[str] = set()
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        at = f"{path}.volumeMounts[{index}]"
        if mount["name"] not in volumes:
            errors.invalid(f"{at}.name", mount["name"], "must be the name of one of the pod's volumes")
        if not mount["mountPath"]:
            errors.required(f"{at}.mountPath")
        if mount["mountPath"] in places:
            errors.duplicate(f"{at}.mountPath", mount["mountPath"])
        places.add(mount["mountPath"])


# --- DNS and scheduling -----------------------------------------------------------------------------------------


def _dns(errors: Errors, path: str, spec: Fields) -> None:
    policies = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")
    config = spec.get("dnsConfig") or {}
    servers, searches = config.get("nameservers") or [], config.get("searches") or []
    errors.choice(f"{path}.dnsPolicy", spec["dnsPolicy"], policies)
    if spec["dnsPolicy"] == "None" and not servers:
        errors.required(f"{path}.dnsConfig.nameservers", "required with dnsPolicy None: at least one")
    if len(servers) > _MAX_NAMESERVERS:
        errors.invalid(f"{path}.dnsConfig.nameservers", len(servers), f"must be at most {_MAX_NAMESERVERS}")
    if len(searches) > _MAX_SEARCHES:
        errors.invalid(f"{path}.dnsConfig.searches", len(searches), f"must be at most {_MAX_SEARCHES}")
    for index, server in enumerate(servers):
        errors.check(f"{path}.dnsConfig.nameservers[{index}]", server, ip_address)
    for index, search in enumerate(searches):
        if search != ".":
            errors.check(f"{path}.dnsConfig.searches[{index}]", search.removesuffix("."), dns_subdomain)
    for index, option in enumerate(config.get("options") or ()):
        if not option.get("name"):
            errors.required(f"{path}.dnsConfig.options[{index}].name")


def _tolerations(errors: Errors, path: str, tolerations: list[Fields]) -> None:
    for index, toleration in enumerate(tolerations):
        at = f"{path}[{index}]"
        operator = toleration.get("operator") or "Equal"
        if toleration.get("key"):
            errors.check(f"{at}.key", toleration["key"], qualified_name)
        elif operator != "Exists":
            errors.invalid(f"{at}.operator", operator, "must be Exists when there is no key")
        if errors.choice(f"{at}.operator", operator, ("Equal", "Exists")):
            if operator == "Exists" and toleration.get("value"):
                errors.invalid(f"{at}.value", toleration["value"], "must be left out with operator Exists")
            elif operator == "Equal":
                errors.check(f"{at}.value", toleration.get("value", ""), label_value)
        if toleration.get("effect"):
            errors.choice(f"{at}.effect", toleration["effect"], _EFFECTS)
        if toleration.get("tolerationSeconds") is not None and toleration.get("effect") != "NoExecute":
            errors.invalid(f"{at}.effect", toleration.get("effect", ""), "must be NoExecute with tolerationSeconds")


def _affinity(errors: Errors, path: str, affinity: Fields) -> None:
    node = affinity.get("nodeAffinity") or {}
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    if node.get(required) is not None:
        terms = node[required].get("nodeSelectorTerms") or []
        at = f"{path}.nodeAffinity.{required}.nodeSelectorTerms"
        if not terms:
            errors.required(at, "required: at least one term")
        for index, term in enumerate(terms):
            _node_term(errors, f"{at}[{index}]", term)
    for index, weighted in enumerate(node.get(preferred) or ()):
        at = f"{path}.nodeAffinity.{preferred}[{index}]"
        _weight(errors, at, weighted)
        _node_term(errors, f"{at}.preference", weighted["preference"])
    for kind in ("podAffinity", "podAntiAffinity"):
        for at, term in _pod_terms(errors, f"{path}.{kind}", affinity.get(kind) or {}, required, preferred):
            errors.selector(f"{at}.labelSelector", term.get("labelSelector"))
            errors.selector(f"{at}.namespaceSelector", term.get("namespaceSelector"))
            if not term["topologyKey"]:
                errors.required(f"{at}.topologyKey")
            else:
                errors.check(f"{at}.topologyKey", term["topologyKey"], qualified_name)


def _pod_terms(
    errors: Errors, path: str, affinity: Fields, required: str, preferred: str
) -> Iterator[tuple[str, Fields]]:
    for index, term in enumerate(affinity.get(required) or ()):
        yield f"{path}.{required}[{index}]", term
    for index, weighted in enumerate(affinity.get(preferred) or ()):
        _weight(errors, f"{path}.{preferred}[{index}]", weighted)
        yield f"{path}.{preferred}[{index}].podAffinityTerm", weighted["podAffinityTerm"]


def _weight(errors: Errors, path: str, weighted: Fields) -> None:
    if not 1 <= weighted["weight"] <= 100:
        errors.invalid(f"{path}.weight", weighted["weight"], "must be 1 to 100")


def _node_term(errors: Errors, path: str, term: Fields) -> None:
    for index, requirement in enumerate(term.get("matchExpressions") or ()):
        at = f"{path}.matchExpressions[{index}]"
        operator, values = requirement["operator"], requirement.get("values") or []
        errors.check(f"{at}.key", requirement["key"], qualified_name)
        if not errors.choice(f"{at}.operator", operator, _NODE_OPERATORS):
            continue
        if operator in ("In", "NotIn") and not values:
            errors.required(f"{at}.values", f"required with operator {operator}: at least one value")
        elif operator in ("Exists", "DoesNotExist") and values:
            errors.forbidden(f"{at}.values", f"may not be given with operator {operator}: remove it")
        elif operator in ("Gt", "Lt") and not (len(values) == 1 and values[0].lstrip("-").isdigit()):
            errors.invalid(f"{at}.values", values, f"must be one integer with operator {operator}")


def _spread(errors: Errors, path: str, constraints: list[Fields]) -> None:
    seen: set[tuple[str, str]] = set()
    for index, constraint in enumerate(constraints):
        at = f"{path}[{index}]"
        key, otherwise = constraint["topologyKey"], constraint["whenUnsatisfiable"]
        if constraint["maxSkew"] < 1:
            errors.invalid(f"{at}.maxSkew", constraint["maxSkew"], "must be 1 or more")
        errors.check(f"{at}.topologyKey", key, qualified_name)
        errors.choice(f"{at}.whenUnsatisfiable", otherwise, ("DoNotSchedule", "ScheduleAnyway"))
        errors.selector(f"{at}.labelSelector", constraint.get("labelSelector"))
        if (key, otherwise) in seen:
            errors.duplicate(at, f"{key}, {otherwise}")
        seen.add((key, otherwise))


# --- updates ----------------------------------------------------------------------------------------------------


def _check_update(errors: Errors, new: Fields, old: Fields) -> None:
    """A pod is what it is: images, added tolerations, deadline and gates apart, a new spec needs a new pod."""
    remedy = "delete the pod and create it again, or change the template of its workload"
    for role in ("initContainers", "containers"):
        before, after = old.get(role) or [], new.get(role) or []
        if len(before) != len(after):
            errors.forbidden(f"spec.{role}", f"containers cannot be added or removed: {remedy}")
            continue
        for index, (was, now) in enumerate(zip(before, after, strict=True)):
            for field in sorted(set(was) | set(now)):
                if field != "image" and was.get(field) != now.get(field):
                    errors.immutable(f"spec.{role}[{index}].{field}", now.get(field), was.get(field), remedy)
    for field in sorted(set(new) | set(old)):
        if field not in _MUTABLE and field not in _CONTAINER_LISTS:
            errors.immutable(f"spec.{field}", new.get(field), old.get(field), remedy)
    kept = new.get("tolerations") or []
    if any(toleration not in kept for toleration in old.get("tolerations") or ()):
        errors.forbidden("spec.tolerations", "tolerations can only be added, existing ones must stay as they are")
