"""What of the cluster a Gateway's objects refer to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from kmn.ingress.certificates import KeyPair
from kmn.k8s.objects import Key, Object, namespace_of

__all__ = ["CORE", "GATEWAY_GROUP", "Reference", "World", "route_age"]

GATEWAY_GROUP = "gateway.networking.k8s.io"
CORE = ""


class Reference(NamedTuple):
    """From an object of the group's ``kind`` in ``namespace`` to an object of the core group."""

    kind: str
    namespace: str
    to_kind: str
    to: Key


@dataclass(frozen=True, slots=True)
class World:
    """``routes`` by their kind; ``pair`` is a Secret's certificate, or what is wrong with it."""

    namespaces: Mapping[Key, Object]
    services: Mapping[Key, Object]
    grants: Collection[Object]
    routes: Mapping[str, Collection[Object]]
    pair: Callable[[Key], KeyPair | ValueError]

    def permits(self, reference: Reference) -> bool:
        """Within a namespace everything is, beyond it what a ReferenceGrant of the other namespace names."""
        if reference.namespace == reference.to.namespace:
            return True
        grants = (grant["spec"] for grant in self.grants if namespace_of(grant) == reference.to.namespace)
        return any(
            any(_is_from(entry, reference) for entry in grant["from"])
            and any(_is_to(entry, reference) for entry in grant["to"])
            for grant in grants
        )


def _is_from(entry: dict[str, Any], reference: Reference) -> bool:
    wanted = (GATEWAY_GROUP, reference.kind, reference.namespace)
    return (entry["group"], entry["kind"], entry["namespace"]) == wanted


def _is_to(entry: dict[str, Any], reference: Reference) -> bool:
    if (entry["group"], entry["kind"]) != (CORE, reference.to_kind):
        return False
    return entry.get("name") in (None, "", reference.to.name)


def route_age(route: Object) -> tuple[str, str, str]:
    """Routes in the order in which they count: the oldest first, then by namespace and name."""
    meta = route["metadata"]
    return meta.get("creationTimestamp") or "", meta.get("namespace") or "", meta["name"]
