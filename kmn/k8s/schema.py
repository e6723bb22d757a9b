"""JSON schemas compiled to closures: every error at once, in the words of whoever wrote the object.

The subset of JSON Schema that Kubernetes' OpenAPI documents and kmn's own schemas use, and no more: ``type``,
``properties``, ``required``, ``additionalProperties``, ``items``, ``enum``, ``pattern``, ``minimum``, ``maximum``,
``minLength``, ``maxLength``, ``minItems``, ``maxItems``, ``format``, ``$ref`` into ``$defs``, and ``oneOf`` between
scalar types; ``default`` is for :meth:`Schemas.fill`. Compiling is lazy: a definition is compiled when the first value
for it arrives. (Validators that stop at the first error, or walk the schema anew for each object, were 10 to 100 times
slower at first use or per object.)
"""

from __future__ import annotations

import base64
import binascii
import copy
import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

from kmn.k8s.errors import FieldError
from kmn.k8s.objects import parse_time

__all__ = ["Check", "Report", "Schemas", "Unknown", "did_you_mean", "in_words"]

Path: TypeAlias = "tuple[Path, str | int | tuple[str]] | None"  # linked list; a 1-tuple is the key of a free-form map
Check: TypeAlias = "Callable[[Any, Path, Report], None]"

_WORDS = {
    "object": "a mapping",
    "array": "a list",
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
}
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_INT_RANGES = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}


class Unknown(NamedTuple):
    """A field that the schema does not know: where it stands, so that a lenient reader can drop it."""

    container: dict[str, Any]
    key: str
    error: FieldError


class Report:
    """What a check found."""

    __slots__ = ("errors", "unknown")

    def __init__(self) -> None:
        self.errors: list[FieldError] = []
        self.unknown: list[Unknown] = []

    def add(self, path: Path, message: str, reason: str = "FieldValueInvalid") -> None:
        self.errors.append(FieldError(_render(path), message, reason))

    def unknown_field(self, container: dict[str, Any], key: str, path: Path, known: Iterable[str]) -> None:
        error = FieldError(_render((path, key)), f"unknown field{did_you_mean(str(key), known)}", "FieldValueInvalid")
        self.unknown.append(Unknown(container, key, error))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``, did you mean "replicas"?``, or nothing when no known word is near."""
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.7)
    return f', did you mean "{by_lower[near[0]]}"?' if near else ""


def in_words(value: Any) -> str:
    """A value as its writer wrote it, shortened."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


class Schemas:
    """A document of ``$defs``; checks for them are compiled on demand."""

    def __init__(self, definitions: Mapping[str, Any], patterns: Mapping[str, tuple[str, str]] | None = None) -> None:
        """``patterns`` adds, by definition, an expression that its strings match and the words for it."""
        self._definitions = definitions
        self._patterns = {name: (re.compile(text), words) for name, (text, words) in (patterns or {}).items()}
        self._compiled: dict[str, Check] = {}

    def definition(self, name: str) -> Check:
        """The check of one definition."""
        check = self._compiled.get(name)
        if check is None:
            check = self._compiled[name] = self.compile(self._definitions[name])
            if name in self._patterns:
                check = self._compiled[name] = _and_pattern(check, *self._patterns[name])
        return check

    def compile(self, schema: Mapping[str, Any]) -> Check:
        """The check of a schema."""
        if "$ref" in schema:
            return self._reference(schema["$ref"].rpartition("/")[2])
        types = _types_of(schema)
        nullable = not types or "null" in types
        wanted = [t for t in types if t != "null"]
        checks: list[Check] = []
        if "enum" in schema:
            checks.append(_enum(schema["enum"], schema.get("x-kmn-not-emulated", {})))
        if wanted == ["object"]:
            checks.append(self._object(schema))
        elif wanted == ["array"]:
            checks.append(self._array(schema))
        elif "object" in wanted:  # a short form, or fields
            checks.extend([_of_objects(self._object(schema)), *_scalar(schema)])
        elif wanted:
            checks.extend(_scalar(schema))
        return _typed(wanted, nullable, checks)

    def fill(self, name: str, value: Any) -> None:
        """Set the defaults of a definition in a value, from the outside in, as API servers do for custom resources."""
        self._fill(self._definitions[name], value)

    def _fill(self, schema: Mapping[str, Any], value: Any) -> None:
        if "$ref" in schema:
            schema = self._definitions[schema["$ref"].rpartition("/")[2]]
        if isinstance(value, list):
            for item in value:
                self._fill(schema.get("items", {}), item)
        elif isinstance(value, dict):
            for field, below in schema.get("properties", {}).items():
                if "default" in below and value.get(field) is None:
                    value[field] = copy.deepcopy(below["default"])
                if field in value:
                    self._fill(below, value[field])

    def _reference(self, name: str) -> Check:
        target: Check | None = None

        def check(value: Any, path: Path, report: Report) -> None:
            nonlocal target
            if target is None:
                target = self.definition(name)
            target(value, path, report)

        return check

    def _object(self, schema: Mapping[str, Any]) -> Check:
        # Plain strings and booleans, the most of all fields, are checked in place: (type, check).
        known = {
            name: (_plain_type(field), self.compile(field)) for name, field in schema.get("properties", {}).items()
        }
        required = tuple(schema.get("required", ()))
        extra = schema.get("additionalProperties", True)
        extra_check = self.compile(extra) if isinstance(extra, dict) else None
        open_ended = extra is True

        def check(value: Any, path: Path, report: Report) -> None:
            for name, item in value.items():
                field = known.get(name)
                if field is not None:
                    if type(item) is not field[0] and not (item is None and name in required):
                        field[1](item, (path, name), report)
                elif type(name) is not str:
                    report.add((path, (str(name),)), f"keys must be strings, {in_words(name)} is not: quote it")
                elif extra_check is not None:
                    extra_check(item, (path, (name,)), report)
                elif not open_ended:
                    report.unknown_field(value, name, path, known)
            for name in required:
                if value.get(name) is None:  # a null is a field that is not given
                    report.add((path, name), "required", "FieldValueRequired")

        return check

    def _array(self, schema: Mapping[str, Any]) -> Check:
        items = self.compile(schema.get("items", {}))
        least, most = schema.get("minItems", 0), schema.get("maxItems")

        def check(value: Any, path: Path, report: Report) -> None:
            for index, item in enumerate(value):
                # An entry with nothing behind its dash is an empty object where objects are due.
                items({} if item is None else item, (path, index), report)
            if len(value) < least:
                report.add(path, f"needs at least {least} entries, has {len(value)}")
            if most is not None and len(value) > most:
                report.add(path, f"takes at most {most} entries, has {len(value)}")

        return check


def _types_of(schema: Mapping[str, Any]) -> list[str]:
    if "oneOf" in schema:  # only between scalar types: "an integer or a string"
        found: list[str] = []
        for branch in schema["oneOf"]:
            found.extend(t for t in _types_of(branch) if t not in found)
        return found
    types = schema.get("type", ())
    return [types] if isinstance(types, str) else list(types)


def _plain_type(schema: Mapping[str, Any]) -> type | None:
    """str or bool when nothing but this type is asked of the value."""
    if any(word in schema for word in ("enum", "format", "pattern", "oneOf", "$ref", "minLength", "maxLength")):
        return None
    wanted = [t for t in _types_of(schema) if t != "null"]
    return {"string": str, "boolean": bool}.get(wanted[0]) if len(wanted) == 1 else None


def _typed(wanted: list[str], nullable: bool, checks: list[Check]) -> Check:
    accepted = tuple({python: None for name in wanted for python in _TYPES[name]})
    words = " or ".join(_WORDS[name] for name in wanted)

    def check(value: Any, path: Path, report: Report) -> None:
        if value is None:
            if not nullable:
                report.add(path, f"must be {words}, is empty", "FieldValueTypeInvalid")
            return
        if wanted and type(value) not in accepted:
            report.add(path, f"must be {words}, is {in_words(value)}", "FieldValueTypeInvalid")
            return
        for each in checks:
            each(value, path, report)

    return check


def _enum(choices: list[Any], not_emulated: Mapping[str, str]) -> Check:
    """One of some values. ``not_emulated`` has others that exist elsewhere, and why they are not taken."""
    words = ", ".join(in_words(choice) for choice in choices)

    def check(value: Any, path: Path, report: Report) -> None:
        if value not in choices:
            near = did_you_mean(value, [c for c in choices if isinstance(c, str)]) if isinstance(value, str) else ""
            must = f"must be {words}" if len(choices) == 1 else f"must be one of {words}"
            why = not_emulated.get(value) if isinstance(value, str) else None
            tail = f", which is not emulated: {why}" if why else near
            report.add(path, f"{must}; is {in_words(value)}{tail}", "FieldValueNotSupported")

    return check


def _scalar(schema: Mapping[str, Any]) -> Iterable[Check]:
    kind = schema.get("format", "")
    least, most = _INT_RANGES.get(kind, (None, None))
    least, most = schema.get("minimum", least), schema.get("maximum", most)
    if least is not None or most is not None:
        yield _between(least, most)
    if kind == "date-time":
        yield _parsed(parse_time, "must be a time such as 2026-01-31T12:00:00Z")
    elif kind == "byte":
        yield _parsed(lambda text: base64.b64decode(text, validate=True), "must be base64")
    if "minLength" in schema or "maxLength" in schema:
        yield _long(schema.get("minLength", 0), schema.get("maxLength"))
    if "pattern" in schema:
        yield _pattern(re.compile(schema["pattern"]), schema.get("x-kmn-words") or f"must match {schema['pattern']}")


def _of_objects(check: Check) -> Check:
    """A check that leaves other values than objects alone."""

    def check_object(value: Any, path: Path, report: Report) -> None:
        if isinstance(value, dict):
            check(value, path, report)

    return check_object


def _between(least: float | None, most: float | None) -> Check:
    if least is None or most is None:
        words = f"must be at most {most}" if least is None else f"must be at least {least}"
    else:
        words = f"must be between {least} and {most}"

    def check(value: Any, path: Path, report: Report) -> None:
        if not isinstance(value, str) and (
            (least is not None and value < least) or (most is not None and value > most)
        ):
            report.add(path, f"{words}, is {value}")

    return check


def _long(least: int, most: int | None) -> Check:
    def check(value: Any, path: Path, report: Report) -> None:
        if not isinstance(value, str):
            return
        if len(value) < least:
            report.add(path, f"must have at least {least} character{'s' if least != 1 else ''}, has {len(value)}")
        elif most is not None and len(value) > most:
            report.add(path, f"must have at most {most} characters, has {len(value)}")

    return check


def _parsed(parse: Callable[[str], object], words: str) -> Check:
    def check(value: Any, path: Path, report: Report) -> None:
        try:
            parse(value.replace("\n", ""))
        except (ValueError, binascii.Error):
            report.add(path, f"{words}, is {in_words(value)}")

    return check


def _pattern(pattern: re.Pattern[str], words: str) -> Check:
    def check(value: Any, path: Path, report: Report) -> None:
        if isinstance(value, str) and not pattern.fullmatch(value):
            report.add(path, f"{words}, is {in_words(value)}")

    return check


def _and_pattern(check: Check, pattern: re.Pattern[str], words: str) -> Check:
    matches = _pattern(pattern, words)

    def both(value: Any, path: Path, report: Report) -> None:
        check(value, path, report)
        matches(value, path, report)

    return both


def _render(path: Path) -> str:
    parts: list[str] = []
    while path is not None:
        path, segment = path
        if isinstance(segment, int):
            parts.append(f"[{segment}]")
        elif isinstance(segment, tuple):
            parts.append(f"[{segment[0]}]")
        else:
            parts.append(f".{segment}")
    return "".join(reversed(parts)).removeprefix(".")
