"""What the API server takes and warns of: it is valid, and hardly what its author wants."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from kmn.apiserver.admission.templates import KINDS, pod_of, spec_path
from kmn.k8s.objects import Object, describe
from kmn.k8s.resources import POLICIES
from kmn.policy.mistakes import Surroundings, mistakes

__all__ = ["warnings_of"]

_POLICIES = frozenset(resource.kind for resource in POLICIES)


class _NoEffectYet(NamedTuple):
    """A field that users expect something of, and that is stored only."""

    kind: str
    values: Callable[[Object], Iterable[Any]]  # of an object of this kind: what is there and does nothing
    text: str  # {} is the value


# What is built goes from here.
_NO_EFFECT_YET = (_NoEffectYet("Ingress", lambda _: [""], "has no effect yet: nothing serves it{}"),)


def warnings_of(obj: Object, around: Surroundings | None = None) -> list[str]:
    """Warnings about a valid object; with ``around`` also of a policy that it does not fit into."""
    found = list(_without_effect(obj))
    if obj["kind"] in KINDS:
        found += _ports_given_twice(pod_of(obj).get("spec") or {}, spec_path(obj["kind"]))
    elif obj["kind"] in _POLICIES:
        found += mistakes(obj, around)
    return [f"{describe(obj)}: {text}" for text in found]


def _without_effect(obj: Object) -> Iterator[str]:
    for rule in _NO_EFFECT_YET:
        if rule.kind == obj["kind"]:
            yield from (rule.text.format(value) for value in rule.values(obj))


def _ports_given_twice(spec: Object, path: str) -> Iterator[str]:
    """All containers of a pod share its addresses, so only one of them can listen on a port."""
    seen: dict[tuple[str, int], str] = {}
    for index, container in enumerate(spec.get("containers") or ()):
        for number, port in enumerate(container.get("ports") or ()):
            at = f"{path}.containers[{index}].ports[{number}]"
            key = (port.get("protocol", "TCP"), port["containerPort"])
            first = seen.setdefault(key, at)
            if first is not at:
                yield f"{at}: {key[0]} port {key[1]} is given twice, here and in {first}: only one can listen there"
