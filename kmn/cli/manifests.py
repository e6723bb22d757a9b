"""``kmn apply`` and ``kmn delete``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from kmn.apply import apply, delete
from kmn.cluster import Cluster
from kmn.errors import UserError
from kmn.k8s.objects import Object
from kmn.k8s.resources import by_word

__all__ = ["apply_files", "delete_files", "delete_named", "read"]


def read(files: Sequence[str], namespace: str | None = None) -> list[Object]:
    """The objects of ``-f`` files, folders and standard input (``-``); ``namespace`` is for those that name none."""
    from kmn.k8s.manifests import load

    if not files:
        raise UserError("no manifest given", "-f FILE, -f FOLDER or -f -")
    return load(list(files), sys.stdin, namespace=namespace or "default")


def apply_files(files: Sequence[str], cluster: str | None, namespace: str | None) -> None:
    """``kmn apply -f``: a line an object, as kubectl prints it."""
    objects = read(files, namespace)
    with Cluster.attach(cluster) as running:
        for change in apply(running.client, objects, namespace):
            print(change, flush=True)


def delete_files(files: Sequence[str], cluster: str | None, namespace: str | None, *, ignore_missing: bool) -> None:
    """``kmn delete -f``."""
    objects = read(files, namespace)
    with Cluster.attach(cluster) as running:
        for change in delete(running.client, objects, namespace, ignore_missing=ignore_missing):
            print(change, flush=True)


def delete_named(words: Sequence[str], cluster: str | None, namespace: str | None, *, ignore_missing: bool) -> None:
    """``kmn delete pod web-1 web-2`` and ``kmn delete pod/web-1 svc/web``."""
    objects = [_named(kind, name) for kind, name in pairs(words)]
    if not objects:
        raise UserError("nothing to delete was named", "-f FILE, or TYPE NAME, or TYPE/NAME")
    with Cluster.attach(cluster) as running:
        for change in delete(running.client, objects, namespace, ignore_missing=ignore_missing):
            print(change, flush=True)


def pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    """kubectl's two ways of naming: ``TYPE NAME…`` and ``TYPE/NAME…``."""
    if any("/" in word for word in words):
        split = [word.split("/") for word in words]
        bad = next((parts for parts in split if len(parts) != 2 or not all(parts)), None)
        if bad is not None:
            raise UserError(f"{'/'.join(bad)}: not TYPE/NAME", "TYPE NAME… and TYPE/NAME do not mix")
        return [(kind, name) for kind, name in split]
    return [(words[0], name) for name in words[1:]]


def _named(kind: str, name: str) -> Object:
    resource = next(by_word(kind), None)
    if resource is None:
        raise UserError(f'the server has no resource type "{kind}"')
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}}
