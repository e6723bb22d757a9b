"""What the API server takes and warns of: it is valid, and hardly what its author wants."""

from __future__ import annotations

from collections.abc import Iterator

from kmn.apiserver.admission.templates import KINDS, pod_of, spec_path
from kmn.k8s.objects import Object, describe
from kmn.k8s.resources import POLICIES
from kmn.policy.mistakes import Surroundings, mistakes

__all__ = ["warnings_of"]

_POLICIES = frozenset(resource.kind for resource in POLICIES)


def warnings_of(obj: Object, around: Surroundings | None = None) -> list[str]:
    """Warnings about a valid object; with ``around`` also of a policy that it does not fit into."""
    found: list[str] = []
    if obj["kind"] in KINDS:
        found += _ports_given_twice(pod_of(obj).get("spec") or {}, spec_path(obj["kind"]))
    elif obj["kind"] in _POLICIES:
        found += mistakes(obj, around)
    return [f"{describe(obj)}: {text}" for text in found]


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
