"""``kmn get``: objects as the server's tables, or as JSON, YAML or names."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kmn.cli.manifests import pairs, read
from kmn.cli.output import dump, print_rows
from kmn.cluster import Cluster
from kmn.errors import UserError
from kmn.k8s.objects import Object, name_of, namespace_of, resource_of
from kmn.k8s.resources import ALL, Resource, by_word
from kmn.k8s.rest import RestClient

__all__ = ["Query", "Request", "requests_of", "show", "table_lines"]

_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
_FORMS = ("table", "wide", "name", "json", "yaml")


@dataclass(frozen=True, slots=True)
class Query:
    """What ``kmn get`` was asked for."""

    words: list[str]
    files: list[str]
    namespace: str | None = None
    all_namespaces: bool = False
    selector: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One GET: a collection, or one object if ``name`` is given. ``namespace`` None: all."""

    resource: Resource
    namespace: str | None
    name: str | None = None
    selector: str | None = None

    def send(self, client: RestClient, *, table: bool) -> dict[str, Any]:
        """The server's answer: a Table, or the object or list itself."""
        query = {"labelSelector": self.selector} if self.selector else None
        path = self.resource.path(self.namespace, self.name)
        answer: dict[str, Any] = client.request(
            "GET", path, query=query, accept=_TABLE if table else "application/json"
        )
        return answer


def show(query: Query, cluster: str | None, form: str, *, headers: bool = True) -> None:
    """Print what the query finds."""
    if form not in _FORMS:
        raise UserError(f"-o {form}: not known", ", ".join(_FORMS))
    requests = requests_of(query)
    with Cluster.attach(cluster) as running:
        if form in ("table", "wide"):
            _show_tables(running.client, query, requests, wide=form == "wide", headers=headers)
        else:
            _show_objects(running.client, query, requests, form)


def requests_of(query: Query) -> list[Request]:
    """The requests of a query. Raises UserError for words that name nothing."""
    namespace = None if query.all_namespaces else query.namespace or "default"
    if query.files:
        objects = read(query.files, query.namespace)
        placed = [(resource_of(obj), namespace_of(obj), name_of(obj)) for obj in objects]
        return [Request(resource, ns, name) for resource, ns, name in placed]
    if not query.words:
        raise UserError("nothing was asked for", "kmn get pods; kmn get svc web; kmn get all -A")
    if len(query.words) == 1 and "/" not in query.words[0]:
        found = [resource for word in query.words[0].split(",") for resource in _resources(word)]
        return [Request(resource, namespace, None, query.selector) for resource in found]
    if query.all_namespaces or query.selector:
        raise UserError("names do not go with -A or -l", "leave out the one or the other")
    return [Request(_resources(kind)[0], namespace, name) for kind, name in pairs(query.words)]


def table_lines(
    table: dict[str, Any], *, wide: bool, with_namespace: bool, prefix: str = ""
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a server's Table: all columns if wide, else those of priority 0; ``prefix`` before names."""
    columns = [(i, c) for i, c in enumerate(table["columnDefinitions"]) if wide or not c.get("priority")]
    header = [c["name"].upper() for _, c in columns]
    rows = []
    for row in table["rows"]:
        cells = [_cell(row["cells"][i]) for i, _ in columns]
        if prefix and cells:
            cells[0] = prefix + cells[0]
        rows.append([*([row["object"]["metadata"].get("namespace", "")] if with_namespace else []), *cells])
    return ["NAMESPACE", *header] if with_namespace else header, rows


def _resources(word: str) -> list[Resource]:
    """What a word means: one kind, or the kinds of a category (``all``)."""
    kinds = list(by_word(word))[:1] or [r for r in ALL if word in r.categories]
    if not kinds:
        known = {name for r in ALL for name in (r.plural, r.singular, *r.short)}
        near = difflib.get_close_matches(word.lower(), sorted(known), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f'the server has no resource type "{word}"', hint)
    return kinds


def _show_tables(client: RestClient, query: Query, requests: Sequence[Request], *, wide: bool, headers: bool) -> None:
    several = len({request.resource for request in requests}) > 1
    shown = 0
    for resource, tables in _by_resource(client, requests):
        namespaced = query.all_namespaces and resource.namespaced
        header: list[str] = []
        rows: list[list[str]] = []
        for table in tables:
            prefix = f"{resource.singular}{'.' + resource.group if resource.group else ''}/" if several else ""
            header, more = table_lines(table, wide=wide, with_namespace=namespaced, prefix=prefix)
            rows += more
        if rows:
            if shown:
                print()
            print_rows(header, rows, headers=headers)
            shown += len(rows)
    if not shown:
        where = "" if query.all_namespaces else f" in {query.namespace or 'default'} namespace"
        sys.stdout.flush()
        print(f"No resources found{where}.", file=sys.stderr)


def _by_resource(client: RestClient, requests: Sequence[Request]) -> Iterator[tuple[Resource, list[dict[str, Any]]]]:
    """Tables of requests for the same resource belong together."""
    for resource in dict.fromkeys(request.resource for request in requests):
        yield resource, [r.send(client, table=True) for r in requests if r.resource is resource]


def _show_objects(client: RestClient, query: Query, requests: Sequence[Request], form: str) -> None:
    objects: list[Object] = []
    for request in requests:
        answer = request.send(client, table=False)
        if request.name is None:
            kind = {"apiVersion": request.resource.api_version, "kind": request.resource.kind}
            objects += [{**kind, **obj} for obj in answer["items"]]
        else:
            objects.append(answer)
    if form == "name":
        for obj in objects:
            resource = resource_of(obj)
            print(f"{resource.singular}{'.' + resource.group if resource.group else ''}/{name_of(obj)}")
    elif len(objects) == 1 and len(requests) == 1 and requests[0].name is not None:
        dump(objects[0], form)
    else:
        dump({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": objects}, form)


def _cell(value: Any) -> str:
    return "<none>" if value is None or value == "" else str(value)
