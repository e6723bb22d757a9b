"""The tables that ``kubectl get`` prints: ``meta.k8s.io/v1`` Tables made of a kind's columns.

Columns are data: a title, a function from object to cell, and whether only ``-o wide`` shows it. What the cells of a
kind say is in ``columns``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kmn.apiserver.columns import BY_KIND, DEFAULT, Column
from kmn.k8s.objects import Object
from kmn.k8s.resources import Resource

__all__ = ["table_of"]


def table_of(
    resource: Resource, objects: Sequence[Object], *, include: str, version: str, header: bool = True
) -> dict[str, Any]:
    """The table of some objects. ``header`` False leaves out the columns: later events of a watch."""
    columns = BY_KIND.get(resource.qualified) or BY_KIND.get(resource.kind, DEFAULT)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": version},
        "columnDefinitions": [_definition(column) for column in columns] if header else [],
        "rows": [_row(columns, obj, include) for obj in objects],
    }


def _definition(column: Column) -> dict[str, Any]:
    return {
        "name": column.title,
        "type": column.type,
        "format": "name" if column.title == "Name" else "",
        "description": column.title,
        "priority": 1 if column.wide else 0,
    }


def _row(columns: Sequence[Column], obj: Object, include: str) -> dict[str, Any]:
    row: dict[str, Any] = {"cells": [column.cell(obj) for column in columns]}
    if include == "Object":
        row["object"] = obj
    elif include != "None":
        row["object"] = {
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": obj["metadata"],
        }
    return row
