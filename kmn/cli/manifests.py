"""``kmn apply`` and ``kmn delete``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence

from kmn.apply import Change, apply, delete
from kmn.cluster import Cluster
from kmn.errors import UserError
from kmn.k8s.objects import Object
from kmn.k8s.resources import by_word

__all__ = ["apply_files", "delete_files", "delete_named", "read"]


def read(
    files: Sequence[str],
    namespace: str | None = None,
    *,
    recursive: bool = False,
    on_problem: Callable[[str], None] | None = None,
) -> list[Object]:
    """The objects of ``-f`` files, folders and standard input (``-``); ``namespace`` is for those that name none."""
    from kmn.k8s.manifests import load

    if not files:
        raise UserError("no manifest given", "-f FILE, -f FOLDER or -f -")
    if list(files).count("-") > 1:
        raise UserError("-f -: standard input can be read only once")
    return load(list(files), sys.stdin, recursive=recursive, namespace=namespace or "default", on_problem=on_problem)


def apply_files(files: Sequence[str], cluster: str | None, namespace: str | None, *, recursive: bool = False) -> None:
    """``kmn apply -f``: a line an object, as kubectl prints it. What cannot be used does not stop the rest."""
    unread: list[str] = []
    objects = read(files, namespace, recursive=recursive, on_problem=unread.append)
    with Cluster.attach(cluster) as running:
        _carry_out(apply(running.client, objects, namespace), unread)


def delete_files(
    files: Sequence[str], cluster: str | None, namespace: str | None, *, recursive: bool = False, ignore_missing: bool
) -> None:
    """``kmn delete -f``."""
    unread: list[str] = []
    objects = read(files, namespace, recursive=recursive, on_problem=unread.append)
    with Cluster.attach(cluster) as running:
        _carry_out(delete(running.client, objects, namespace, ignore_missing=ignore_missing), unread)


def delete_named(words: Sequence[str], cluster: str | None, namespace: str | None, *, ignore_missing: bool) -> None:
    """``kmn delete pod web-1 web-2`` and ``kmn delete pod/web-1 svc/web``."""
    objects = [_named(kind, name) for kind, name in pairs(words)]
    if not objects:
        raise UserError("nothing to delete was named", "-f FILE, or TYPE NAME, or TYPE/NAME")
    with Cluster.attach(cluster) as running:
        _carry_out(delete(running.client, objects, namespace, ignore_missing=ignore_missing), [])


def _carry_out(changes: Iterable[Change], problems: list[str]) -> None:
    """Print what is done; then raise a UserError that tells all that could not be done, ``problems`` first."""
    try:
        for change in changes:
            print(change, flush=True)
    except UserError as refused:
        problems.append(str(refused))
    if problems:
        raise UserError("\n".join(problems))


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
