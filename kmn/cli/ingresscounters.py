"""``kmn ingress counters``: what each rule has got so far, by the pods that have answered."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from kmn.cli.ingress import state_of, views_of
from kmn.cli.output import dump, print_rows
from kmn.cluster import Cluster
from kmn.errors import UserError
from kmn.ingress.accesslog import rule_of
from kmn.ingress.counting import COUNTERS_SOCKET
from kmn.ingress.state import State
from kmn.ingress.tally import Count, Place, counts_of
from kmn.naming import Paths

__all__ = ["Row", "rows", "show"]

_FORMS = ("table", "json", "yaml")
_CLASSES = {2: "2XX", 3: "3XX", 4: "4XX", 5: "5XX", 1: "1XX", 0: "NONE"}
_ALWAYS = (2, 3, 4, 5)  # classes that have a column even if it is empty
_PATIENCE = 10.0  # seconds


@dataclass(slots=True)
class Row:
    """A rule of a controller ("no host" and "no rule" among them), and what became of its requests."""

    controller: str
    rule: str
    ends: dict[tuple[str, str], Count] = field(default_factory=dict)  # by backend and pod; "": nobody was asked

    @property
    def count(self) -> Count:
        """Of all."""
        whole = Count()
        for count in self.ends.values():
            whole.add(count)
        return whole

    def concerns(self, namespace: str) -> bool:
        """Whether it is a rule of an object in a namespace."""
        owner, _ = rule_of(self.rule)
        return owner is not None and owner.namespace == namespace

    def as_json(self) -> dict[str, Any]:
        owner, rule = rule_of(self.rule)
        shown: dict[str, Any] = {"controller": self.controller}
        if owner is not None:
            shown["owner"] = owner._asdict()
        ends = [{"backend": backend, "pod": pod, **_json(count)} for (backend, pod), count in sorted(self.ends.items())]
        known = [{name: value for name, value in end.items() if value != ""} for end in ends]
        return shown | {"rule": rule, **_json(self.count), "by": known}


def show(namespace: str | None, form: str, cluster: str | None) -> int:
    """Print the counters."""
    if form not in _FORMS:
        raise UserError(f"-o {form}: not known", ", ".join(_FORMS))
    with Cluster.attach(cluster) as running:
        state = state_of(running.client)
        counts = _counts(running.paths)
    found = [row for row in rows(_names(state), counts) if namespace is None or row.concerns(namespace)]
    if form != "table":
        dump([row.as_json() for row in found], form)
    elif found:
        _print(found)
    else:
        print("no rules" + (f" of objects in namespace {namespace}" if namespace else ""))
    return 0


def rows(names: Iterable[tuple[str, str]], counts: Mapping[Place, Count]) -> list[Row]:
    """A row for each rule that is there (``names``: controller and rule), then those of what was counted otherwise."""
    found = {name: Row(*name) for name in names}
    for place, count in sorted(counts.items()):
        name = (place.controller, place.rule or "no rule")
        row = found.setdefault(name, Row(*name))
        row.ends.setdefault((place.backend, place.pod), Count()).add(count)
    return list(found.values())


def _names(state: State) -> Iterator[tuple[str, str]]:
    """Each rule once, though several hosts may have it, together with others of its object; streams among them."""
    for controller, view in sorted(views_of(state).items(), key=lambda each: each[0]):
        routing = view.config.routing
        named = [(rule.owner, rule.name) for rule in routing.rules()]
        named += [(stream.owner, stream.name) for stream in routing.streams()]
        yield from dict.fromkeys((controller, name) for _, name in sorted(named, key=lambda each: each[0]))


def _counts(paths: Paths) -> dict[Place, Count]:
    """None where no ingress controller has run yet."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(_PATIENCE)
        try:
            asking.connect(str(paths.root / COUNTERS_SOCKET))
        except (FileNotFoundError, ConnectionRefusedError):
            return {}
        with asking.makefile("rb") as told:
            return counts_of(orjson.loads(told.read()))


# --- as text ----------------------------------------------------------------------------------------------------


def _print(found: list[Row]) -> None:
    counts = [row.count for row in found]
    classes = [each for each in _CLASSES if each in _ALWAYS or any(each in count.answers for count in counts)]
    several = len({row.controller for row in found}) > 1
    header = ["RULE", "BACKEND", "POD", *(_CLASSES[each] for each in classes), "BYTES", "MEAN", "P50", "P99"]
    whose = [[row.controller] if several else [] for row in found]
    lines = [[*own, *line] for own, row in zip(whose, found, strict=True) for line in _lines(row, classes)]
    print_rows((["CONTROLLER"] if several else []) + header, lines)


def _lines(row: Row, classes: list[int]) -> Iterator[list[str]]:
    """One for each backend and pod."""
    for (backend, pod), count in sorted(row.ends.items()) or [(("", ""), Count())]:
        answers = [str(count.answers.get(each, 0)) for each in classes]
        times = [_shown(count.mean), _shown(count.percentile(50)), _shown(count.percentile(99))]
        yield [row.rule, backend or "-", pod or "-", *answers, str(count.sent), *times]


def _shown(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.1f}ms"


def _json(count: Count) -> dict[str, Any]:
    times = {"mean": count.mean, "p50": count.percentile(50), "p99": count.percentile(99)}
    return {
        "requests": count.requests,
        "answers": {_CLASSES[each].lower(): number for each, number in sorted(count.answers.items())},
        "bytes": {"received": count.received, "sent": count.sent},
        "milliseconds": {name: round(value, 3) for name, value in times.items() if value is not None},
    }
