"""The official OpenAPI schemas of Kubernetes, as the package ``kubernetes-validate`` carries them.

Only the definitions are taken from the package; its validator reads 1.5 MB and walks it anew for every object. Those of
the custom resources that kmn serves stand beside them, in ``kmn/schemas``.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import orjson

from kmn.k8s.errors import FieldError
from kmn.k8s.objects import Object
from kmn.k8s.schema import Check, Report, Schemas

__all__ = ["VERSION", "check_schema", "fill_defaults"]

VERSION = "1.33"
_FILE = f"kubernetes-json-schema/v{VERSION}.0-local-strict/_definitions.json"
_CUSTOM = ("policy.networking.k8s.io.json", "gateway.networking.k8s.io.json", "networking.istio.io.json")
_CORE, _META = "io.k8s.api.core.v1.", "io.k8s.apimachinery.pkg.apis.meta.v1."

# Fields that the document calls required, although the API server takes them as empty when they are left out.
_NOT_REQUIRED = {
    "io.k8s.api.networking.v1.NetworkPolicySpec": {"podSelector"},
    "io.k8s.api.discovery.v1.EndpointSlice": {"endpoints"},
    _CORE + "HTTPHeader": {"value"},
}
_PATTERNS = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": (
        r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][-+]?[0-9]+)?",
        'must be a quantity such as "100m" or "64Mi"',
    )
}
# Maps of strings by the name of the field: a null in them is an empty string, everywhere else it is "not given".
_STRING_MAPS = frozenset({"annotations", "binaryData", "data", "labels", "matchLabels", "nodeSelector", "stringData"})


def check_schema(obj: Object, *, strict: bool) -> tuple[list[FieldError], list[str]]:
    """Errors and warnings. Nulls and (when not strict) unknown fields are removed from ``obj``.

    Of kinds without a schema (custom resources) only the metadata is checked.
    """
    report = Report()
    check = _check_of(obj["apiVersion"], obj["kind"])
    if check is None:
        _kubernetes()[0].definition(_META + "ObjectMeta")(obj.get("metadata"), (None, "metadata"), report)
        return report.errors + [unknown.error for unknown in report.unknown], []
    check(obj, None, report)
    if strict:
        report.errors.extend(unknown.error for unknown in report.unknown)
    else:
        for unknown in report.unknown:
            del unknown.container[unknown.key]
    if not report.errors:
        _drop_nulls(obj)
    return report.errors, [] if strict else [str(unknown.error) for unknown in report.unknown]


def fill_defaults(obj: Object) -> None:
    """The defaults that the schema of a custom resource has."""
    schemas, kinds = _kubernetes()
    name = kinds.get((obj["apiVersion"], obj["kind"]))
    if name is not None:
        schemas.fill(name, obj)


@cache
def _kubernetes() -> tuple[Schemas, dict[tuple[str, str], str]]:
    """All definitions, and the name of the definition of each (apiVersion, kind)."""
    package = importlib.util.find_spec("kubernetes_validate")  # finding does not import it, nor what it imports
    if package is None or not package.submodule_search_locations:
        raise RuntimeError("the Python package kubernetes-validate is missing: pip install 'kubernetes-validate>=1.33'")
    definitions = orjson.loads((Path(package.submodule_search_locations[0]) / _FILE).read_bytes())["$defs"]
    for custom in _CUSTOM:
        definitions |= orjson.loads((files("kmn") / "schemas" / custom).read_bytes())["$defs"]
    kinds: dict[tuple[str, str], str] = {}
    for name, schema in definitions.items():
        _relax(name, schema)
        for gvk in schema.get("x-kubernetes-group-version-kind", ()):
            group = f"{gvk['group']}/" if gvk["group"] else ""
            kinds[f"{group}{gvk['version']}", gvk["kind"]] = name
    return Schemas(definitions, _PATTERNS), kinds


def _relax(name: str, schema: dict[str, Any]) -> None:
    if name.endswith("Status"):  # `status: {}` is what kubectl itself writes into manifests
        schema.pop("required", None)
    elif name in _NOT_REQUIRED:
        schema["required"] = [field for field in schema.get("required", ()) if field not in _NOT_REQUIRED[name]]


@cache
def _check_of(api_version: str, kind: str) -> Check | None:
    schemas, kinds = _kubernetes()
    name = kinds.get((api_version, kind))
    return schemas.definition(name) if name else None


def _drop_nulls(value: dict[str, Any], in_string_map: bool = False) -> None:
    for key in [key for key, item in value.items() if item is None]:
        if in_string_map:
            value[key] = ""
        else:
            del value[key]
    for key, item in value.items():
        if type(item) is dict:
            _drop_nulls(item, key in _STRING_MAPS)
        elif type(item) is list:
            for index, entry in enumerate(item):
                if type(entry) is dict:
                    _drop_nulls(entry)
                elif entry is None:
                    item[index] = {}
