"""Writing packed slices: the same for Services' own endpoints and for mirrored ones."""

from __future__ import annotations

from collections.abc import Mapping

from kmn.controlplane.endpoints.compute import Desired, Ports, port_objects
from kmn.controlplane.endpoints.packing import Changes, pack
from kmn.controlplane.runtime import LoopClient
from kmn.k8s.objects import Object, labels, name_of, namespace_of, owner_reference, uid_of
from kmn.k8s.resources import ENDPOINTSLICES

__all__ = ["MANAGED_BY", "SERVICE_NAME", "delete_slices", "slices_of", "write_slices"]

SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"


def slices_of(client: LoopClient, owner: Object, manager: str) -> list[Object]:
    """The slices of an owner that ``manager`` keeps; those that a user made by hand are not touched."""
    return [
        obj for obj in client.owned_by(uid_of(owner))
        if obj["kind"] == "EndpointSlice" and labels(obj).get(MANAGED_BY) == manager and not _going(obj)
    ]  # fmt: skip


def write_slices(
    client: LoopClient, owner: Object, manager: str, desired: Mapping[str, Desired], extra: dict[str, str]
) -> None:
    """Make the slices of ``owner`` hold exactly ``desired``, by address type: a slice has one.

    ``extra`` labels come from the Service or Endpoints.
    """
    wanted = {**extra, SERVICE_NAME: name_of(owner), MANAGED_BY: manager}
    existing = slices_of(client, owner, manager)
    for kind, of_kind in desired.items():
        there = [piece for piece in existing if piece["addressType"] == kind]
        _write(client, owner, kind, pack(there, of_kind), wanted)
    _delete(client, [piece for piece in existing if piece["addressType"] not in desired])


def _write(client: LoopClient, owner: Object, kind: str, changes: Changes, wanted: dict[str, str]) -> None:
    for ports, endpoints in changes.create:
        client.create(_slice(owner, kind, wanted, ports, endpoints))
    for piece, endpoints in changes.update:
        client.update({**piece, "metadata": {**piece["metadata"], "labels": wanted}, "endpoints": endpoints})
    for piece in changes.unchanged:
        if labels(piece) != wanted:
            client.update({**piece, "metadata": {**piece["metadata"], "labels": wanted}})
    _delete(client, changes.delete)


def delete_slices(client: LoopClient, owner: Object, manager: str) -> None:
    """Delete all slices of ``owner`` that ``manager`` keeps."""
    _delete(client, slices_of(client, owner, manager))


def _delete(client: LoopClient, slices: list[Object]) -> None:
    for piece in slices:
        client.delete(ENDPOINTSLICES, namespace_of(piece), name_of(piece), uid=uid_of(piece))


def _slice(owner: Object, kind: str, wanted: dict[str, str], ports: Ports, endpoints: list[Object]) -> Object:
    return {
        "apiVersion": ENDPOINTSLICES.api_version,
        "kind": "EndpointSlice",
        "metadata": {
            "generateName": f"{name_of(owner)}-",
            "namespace": namespace_of(owner),
            "labels": wanted,
            "ownerReferences": [owner_reference(owner)],
        },
        "addressType": kind,
        "endpoints": endpoints,
        "ports": port_objects(ports),
    }


def _going(obj: Object) -> bool:
    return "deletionTimestamp" in obj["metadata"]
