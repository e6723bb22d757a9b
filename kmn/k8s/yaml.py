"""YAML as kubectl reads it: YAML 1.1 scalars, several documents, duplicate keys refused, places kept for errors.

JSON and KYAML are YAML as well. What differs from plain PyYAML: a key given twice is an error, timestamps stay
strings, as do ``=`` and ``<<`` where they are values, mapping keys become the strings that JSON would have.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from typing import Any, NamedTuple

import yaml

__all__ = ["Document", "YamlError", "parse_documents"]

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser is about ten times faster


_INT = "tag:yaml.org,2002:int"
_FLOAT = "tag:yaml.org,2002:float"
_MERGE = "tag:yaml.org,2002:merge"
_STRING = "tag:yaml.org,2002:str"


class Document(NamedTuple):
    """One document of a stream: its number (from 1), the line where it begins (from 1), and what it says."""

    number: int
    line: int
    value: Any


class YamlError(Exception):
    """Text that is no YAML: ``shop.yaml: line 3, column 7: mapping values are not allowed here``."""

    def __init__(self, source: str, line: int, column: int, problem: str) -> None:
        super().__init__(f"{source}: line {line}, column {column}: {problem}")
        self.source = source
        self.line = line
        self.column = column
        self.problem = problem


class _Loader(_Base):  # type: ignore[misc]
    """Builds plain dictionaries and refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        own: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag != _MERGE:
                key = self._key(key_node)
                if key in own:
                    raise yaml.constructor.ConstructorError(
                        None, None, f'key "{key}" is given twice', key_node.start_mark
                    )
                own.add(key)
        self.flatten_mapping(node)  # "<<": what is merged comes first, so that own keys win
        return {self._key(key): self.construct_object(value, deep=True) for key, value in node.value}

    def _key(self, node: yaml.Node) -> str:
        if node.tag == _STRING:
            return node.value  # type: ignore[no-any-return]
        return _as_json_key(self.construct_object(node, deep=True), node)


def _as_json_key(key: Any, node: yaml.Node) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, int | float):
        return str(key)
    if key is None:
        return "null"
    raise yaml.constructor.ConstructorError(None, None, "a key must be a string", node.start_mark)


def _construct_mapping(loader: Any, node: yaml.MappingNode) -> dict[Hashable, Any]:
    return loader.construct_mapping(node, deep=True)  # type: ignore[no-any-return]


def _construct_float(loader: Any, node: yaml.ScalarNode) -> float | int:
    """On its way to the API server YAML becomes JSON, where 1e3 and 3.0 are whole numbers."""
    number: float = loader.construct_yaml_float(node)
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _construct_string(loader: Any, node: yaml.ScalarNode) -> str:
    return loader.construct_scalar(node)  # type: ignore[no-any-return]


_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)
_Loader.add_constructor(_FLOAT, _construct_float)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _construct_string)
_Loader.add_constructor("tag:yaml.org,2002:value", _construct_string)
_Loader.add_constructor("tag:yaml.org,2002:binary", _construct_string)

# Numbers as go-yaml has them: no base 60 (a port mapping 22:22 is a string), 0o17, 1e3 without a dot.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_INT, _FLOAT)]
    for first, resolvers in _Base.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _INT, re.compile(r"[-+]?(0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(r"[-+]?((\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|\.(inf|Inf|INF))$|\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)


def parse_documents(text: str, source: str) -> Iterator[Document]:
    """The documents of a stream, empty ones (value None) included. Raises :class:`YamlError`."""
    loader = _Loader(text.removeprefix("\ufeff"))
    number = 0
    try:
        while loader.check_node():
            number += 1
            node = loader.get_node()
            yield Document(number, node.start_mark.line + 1, loader.construct_document(node))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        context = f"{error.context} from line {error.context_mark.line + 1} on" if error.context_mark else error.context
        problem = ", ".join(part for part in (context, error.problem) if part) or "not YAML"
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise YamlError(source, line, column, _with_advice(problem, text, line)) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError(source, line, 1, f"a character that YAML does not allow: {error.reason}") from error
    except (ValueError, RecursionError) as error:  # e.g. an integer such as 1_ or nesting beyond reason
        raise YamlError(source, 1, 1, f"cannot be read as YAML: {error}") from error
    finally:
        loader.dispose()


def _with_advice(problem: str, text: str, line: int) -> str:
    lines = text.splitlines()
    near = "".join(lines[max(0, line - 2) : line])
    if "\t" in near:
        return f"{problem}; the line has a tab: YAML is indented with spaces"
    return problem
