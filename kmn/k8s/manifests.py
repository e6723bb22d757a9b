"""Reading manifests: what ``kubectl apply -f`` takes (files, directories, stdin; YAML, JSON, KYAML, lists).

Only the form is checked here; whether an object is valid is the API server's question (``kmn.apiserver.admission``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from kmn.k8s.errors import ApiError
from kmn.k8s.objects import Object, describe
from kmn.k8s.resources import CLUSTERS, Resource, by_kind
from kmn.k8s.schema import in_words
from kmn.k8s.yaml import YamlError, parse_documents

__all__ = ["Manifest", "ManifestError", "load", "load_manifests", "parse"]

SUFFIXES = (".json", ".yaml", ".yml")  # of the files that a directory is read for
KUSTOMIZATIONS = ("kustomization.yaml", "kustomization.yml", "Kustomization")
DEFAULT_NAMESPACE = "default"
STDIN = "-"


class ManifestError(Exception):
    """Manifests that cannot be used; one line a problem, each with its place."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object and where it stands, for messages about it."""

    object: Object
    source: str  # path of the file, "stdin"
    document: int  # number of the document in the file, from 1
    line: int  # where the document begins

    @property
    def place(self) -> str:
        """``shop.yaml: document 3 (line 41)``."""
        return f"{self.source}: document {self.document} (line {self.line})"

    def __str__(self) -> str:
        return f"{self.place}: {describe(self.object)}"


def load(
    sources: Iterable[str | Path],
    stdin: TextIO | None = None,
    *,
    recursive: bool = False,
    namespace: str | None = None,
    warn: Callable[[str], None] | None = None,
    on_problem: Callable[[str], None] | None = None,
) -> list[Object]:
    """The objects of all sources, in order. See :func:`load_manifests`."""
    found = load_manifests(sources, stdin, recursive=recursive, namespace=namespace, warn=warn, on_problem=on_problem)
    return [manifest.object for manifest in found]


def load_manifests(
    sources: Iterable[str | Path],
    stdin: TextIO | None = None,
    *,
    recursive: bool = False,
    namespace: str | None = None,
    warn: Callable[[str], None] | None = None,
    on_problem: Callable[[str], None] | None = None,
) -> list[Manifest]:
    """The objects of files, directories and (``-``) stdin, in order, each with its place.

    Objects of namespaced kinds that name no namespace get ``namespace``, unless it is None: then whoever applies them
    decides. All problems are collected; raises :class:`ManifestError`, unless ``on_problem`` is there to be told each:
    then what can be used is returned. ``warn`` is told of what is left out
    (kustomizations in directories).
    """
    reader = _Reader(namespace, warn or _print_warning)
    for source in sources:
        for name, text in reader.texts(source, stdin, recursive):
            reader.read(name, text)
    if on_problem is None:
        return reader.result()
    for problem in reader.problems:
        on_problem(problem)
    return reader.found


def parse(text: str, source: str = "text") -> list[Object]:
    """The objects of a text; ``source`` names it in messages. Raises :class:`ManifestError`."""
    reader = _Reader(None, _print_warning)
    reader.read(source, text)
    return [manifest.object for manifest in reader.result()]


def _print_warning(text: str) -> None:
    print(f"Warning: {text}", file=sys.stderr)


class _Reader:
    def __init__(self, namespace: str | None, warn: Callable[[str], None]) -> None:
        self.found: list[Manifest] = []
        self.problems: list[str] = []
        self._namespace = namespace
        self._warn = warn
        self._seen: dict[tuple[str, str, str, str], Manifest] = {}

    def result(self) -> list[Manifest]:
        if self.problems:
            raise ManifestError(self.problems)
        return self.found

    def texts(self, source: str | Path, stdin: TextIO | None, recursive: bool) -> Iterator[tuple[str, str]]:
        """Name and content of each file of a source."""
        if source == STDIN:
            yield "stdin", (stdin or sys.stdin).read()
            return
        path = Path(source)
        if "://" in str(source):
            self.problems.append(f"{source}: addresses are not fetched; download the file and name it")
        elif not path.exists():
            self.problems.append(f"{source}: no such file or directory")
        else:
            for file in self._files(path, recursive) if path.is_dir() else [path]:
                try:
                    yield str(file), file.read_text()
                except UnicodeDecodeError:
                    self.problems.append(f"{file}: not a text file in UTF-8")
                except OSError as error:
                    self.problems.append(f"{file}: cannot be read: {error.strerror}")

    def _files(self, folder: Path, recursive: bool) -> Iterator[Path]:
        entries = sorted(folder.rglob("*") if recursive else folder.iterdir())
        files = [path for path in entries if path.is_file() and path.suffix in SUFFIXES]
        if not files:
            below = "" if recursive else "; -R reads the directories below it as well"
            self.problems.append(
                f"{folder}: no {', '.join('*' + suffix for suffix in SUFFIXES)} in this directory{below}"
            )
        for path in files:
            if path.name in KUSTOMIZATIONS:
                self._warn(f"{path}: skipped, kustomizations are not built: `kubectl kustomize {path.parent}` does")
            else:
                yield path

    def read(self, source: str, text: str) -> None:
        documents = 0
        try:
            for document in parse_documents(text, source):
                if document.value is None:
                    continue
                documents += 1
                at = Manifest({}, source, document.number, document.line)
                for number, value in enumerate(_unfold(document.value), 1):
                    item = f", item {number}" if value is not document.value else ""
                    self._take(at, item, value)
        except YamlError as error:
            self.problems.append(str(error))
            return
        if not documents:
            self.problems.append(f"{source}: holds no object")

    def _take(self, at: Manifest, item: str, value: Any) -> None:
        problem = _form_problem(value)
        resource: Resource | None = None
        if not problem:
            try:
                resource = by_kind(value["apiVersion"], value["kind"])
            except ApiError as error:
                problem = error.message
        if resource is CLUSTERS:
            problem = f"this is a cluster file: `kmn up {at.source}`, without -f"
        if problem or resource is None:
            self.problems.append(f"{at.place}{item}: {problem}")
            return
        if resource.namespaced:
            if self._namespace and not value["metadata"].get("namespace"):
                value["metadata"]["namespace"] = self._namespace
        elif value["metadata"].get("namespace"):
            # kubectl drops it, too: the kind says that the object belongs to no namespace.
            del value["metadata"]["namespace"]
        manifest = Manifest(value, at.source, at.document, at.line)
        name = value["metadata"].get("name")
        if name:
            namespace = value["metadata"].get("namespace") or DEFAULT_NAMESPACE
            key = (resource.group, resource.kind, namespace if resource.namespaced else "", name)
            first = self._seen.setdefault(key, manifest)
            if first is not manifest:
                self.problems.append(f"{at.place}{item}: {describe(value)} is there twice, first in {first.place}")
                return
        self.found.append(manifest)


def _unfold(value: Any) -> Iterator[Any]:
    """The object, or the items of a ``List`` (``PodList`` and the like as well)."""
    kind = value.get("kind") if isinstance(value, dict) else None
    if isinstance(kind, str) and kind.endswith("List") and isinstance(value.get("items"), list):
        item_kind = kind.removesuffix("List")
        for item in value["items"]:
            if isinstance(item, dict) and item_kind and "kind" not in item:
                item = {"apiVersion": value.get("apiVersion"), "kind": item_kind, **item}
            yield from _unfold(item)
    else:
        yield value


def _form_problem(value: Any) -> str:
    """Why a value is no Kubernetes object at all, "" when it is one."""
    if not isinstance(value, dict):
        return f"not a Kubernetes object: must be a mapping with apiVersion, kind and metadata, is {in_words(value)}"
    if str(value.get("apiVersion")).startswith("kustomize.config.k8s.io/"):
        return f"{value.get('kind')}: kustomizations are not built: apply what `kubectl kustomize` prints"
    missing = [field for field in ("apiVersion", "kind") if not value.get(field)]
    if missing:
        return f"not a Kubernetes object: {' and '.join(missing)} missing"
    for field in ("apiVersion", "kind"):
        if not isinstance(value[field], str):
            return f"{field}: must be a string, is {in_words(value[field])}"
    metadata = value.get("metadata")
    if not isinstance(metadata, dict):
        return f"{value['kind']}: metadata: required, with a name in it"
    for field in ("name", "generateName", "namespace"):
        if not isinstance(metadata.get(field) or "", str):
            return f"{value['kind']}: metadata.{field}: must be a string, is {in_words(metadata[field])}: quote it"
    if not metadata.get("name") and not metadata.get("generateName"):
        return f"{value['kind']}: metadata.name: required"
    return ""
