"""Make ``kmn/apiserver/protobuf_schema.json`` out of Kubernetes' own definitions of its types.

    python tools/protobuf_schema.py API_FOLDER APIMACHINERY_FOLDER

The folders are checkouts of ``k8s.io/api`` and ``k8s.io/apimachinery``. ``generated.proto`` tells numbers and types of
the fields; the Go tags in ``types.go`` tell which are inlined in JSON, and which are left out when they are zero.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

_API = (
    "core/v1", "apps/v1", "autoscaling/v1", "autoscaling/v2", "batch/v1", "coordination/v1", "discovery/v1",
    "networking/v1", "policy/v1", "rbac/v1", "scheduling/v1", "storage/v1",
)  # fmt: skip
_MACHINERY = ("pkg/apis/meta/v1", "pkg/api/resource", "pkg/runtime", "pkg/util/intstr")
_OUTPUT = Path(__file__).parent.parent / "kmn/apiserver/protobuf_schema.json"

_FIELD = re.compile(r"^\s+(optional|repeated|required) (\S+) (\w+) = (\d+);")
_MAP = re.compile(r"^\s+map<string, (\S+)> (\w+) = (\d+);")
_GO_FIELD = re.compile(r'^\s+(?:\w+\s+)?([*\w.\[\]]+)\s+`.*?json:"([^"]*)".*?protobuf:"[^,"]+,(\d+)')


def _go_flags(folder: Path) -> dict[tuple[str, int], str]:
    """``i`` for inlined fields, ``z`` for those that are written even when zero, by (struct, field number)."""
    flags: dict[tuple[str, int], str] = {}
    for file in folder.glob("*.go"):
        struct = ""
        for line in file.read_text().splitlines():
            if found := re.match(r"^type (\w+) struct \{", line):
                struct = found[1]
            elif struct and (found := _GO_FIELD.match(line)):
                kind, tag, number = found.groups()
                inline = tag in ("", ",inline")
                zero = kind.startswith("*") or "omitempty" not in tag
                flags[struct, int(number)] = "i" if inline else "z" if zero else ""
    return flags


def _messages(folder: Path) -> dict[str, dict[str, list[str]]]:
    """Message → field number → [name, type, flags]; flags also: ``r`` repeated, ``m`` map of strings to the type."""
    text = (folder / "generated.proto").read_text()
    package = re.search(r"^package (\S+);", text, re.MULTILINE)
    assert package
    known = set(re.findall(r"^message (\w+) \{", text, re.MULTILINE))
    flags = _go_flags(folder)
    messages: dict[str, dict[str, list[str]]] = {}
    message = ""

    def resolve(kind: str) -> str:
        return f"{package[1]}.{kind}" if kind in known else kind.lstrip(".")

    for line in text.splitlines():
        if found := re.match(r"^message (\w+) \{", line):
            message = found[1]
            messages[f"{package[1]}.{message}"] = {}
        elif found := _FIELD.match(line):
            label, kind, name, number = found.groups()
            flag = ("r" if label == "repeated" else "") + flags.get((message, int(number)), "z")
            messages[f"{package[1]}.{message}"][number] = [name, resolve(kind), flag]
        elif found := _MAP.match(line):
            kind, name, number = found.groups()
            messages[f"{package[1]}.{message}"][number] = [name, resolve(kind), "m"]
    return messages


def main() -> None:
    api, machinery = Path(sys.argv[1]), Path(sys.argv[2])
    messages: dict[str, dict[str, list[str]]] = {}
    for folder in (*(api / path for path in _API), *(machinery / path for path in _MACHINERY)):
        messages |= _messages(folder)
    lines = [f"{json.dumps(name)}: {json.dumps(fields)}" for name, fields in sorted(messages.items())]
    _OUTPUT.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{_OUTPUT}: {len(messages)} messages")


if __name__ == "__main__":
    main()
