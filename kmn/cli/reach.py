"""``kmn reach``: who may connect to whom, by policies; what a change of policies would open and close; and whether
packets agree.

Exit codes are those of ``kubectl diff``: 0 for no difference (from before, or between objects and packets), 1 for one,
more for errors.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kmn.cli.manifests import read
from kmn.cli.output import dump
from kmn.cli.policy import judge_of, port_of
from kmn.cli.problems import failing_with
from kmn.cli.reachprobe import Report, await_in_force, probe, versions
from kmn.cli.reachtext import print_changes, print_matrix
from kmn.cli.terminal import console
from kmn.cli.whatif import apply_to, take_away
from kmn.cluster import Cluster
from kmn.emulator.containerports import ServiceIndex, declared_ports, is_sidecar, target_ports
from kmn.errors import UserError
from kmn.k8s.objects import Object, key_of, labels, namespace_of
from kmn.k8s.resources import PODS, SERVICES
from kmn.k8s.selectors import parse_labels
from kmn.policy.answers import Port, Subject, answers, bits, workload_of
from kmn.policy.changes import changes
from kmn.policy.legend import Legend, legend_of, legend_of_change, with_differences
from kmn.policy.matrix import Matrix, fold
from kmn.policy.verdicts import Judge

__all__ = ["MOST_PROBES", "Query", "show", "subjects_of"]

MOST_PROBES = 2000
_TEXTS = ("text", "json", "yaml")
_PICTURES = ("svg", "png", "html")
_DIFFERENT, _FAILED = 1, 2
_SHOWN_DIFFERENCES = 20


@dataclass(frozen=True, slots=True)
class Query:
    """What ``kmn reach`` was asked for."""

    ports: list[str] = field(default_factory=list)
    namespace: str | None = None
    all_namespaces: bool = False
    selector: str | None = None
    diff: list[str] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    staged: bool = False
    probe: bool = False
    most: int = MOST_PROBES
    output: str = "text"

    @property
    def changes(self) -> bool:
        return bool(self.diff or self.without)

    @property
    def everywhere(self) -> bool:
        """Unlike in kubectl, no namespace means all of them."""
        return self.all_namespaces or self.namespace is None

    def selects(self, pod: Object) -> bool:
        """Whether a pod is in the table."""
        here = self.everywhere or self.namespace == namespace_of(pod)
        return here and parse_labels(self.selector).matches(labels(pod))


def show(query: Query, cluster: str | None) -> int:
    """Print the table, the change, or a picture; the exit code. All errors have the exit code 2."""
    with failing_with(_FAILED):
        return _show(query, cluster)


@dataclass(frozen=True, slots=True)
class _Found:
    """What there is to show. Of a change, ``matrix`` has the layers of before and after; ``difference`` is of both."""

    cluster: str
    matrix: Matrix
    difference: Matrix | None
    report: Report | None

    @property
    def code(self) -> int:
        if self.report is not None:
            return _DIFFERENT if self.report.differences else 0
        return _DIFFERENT if self.difference is not None and changes(self.difference) else 0

    @property
    def legend(self) -> Legend:
        if self.difference is not None:
            return legend_of_change(self.matrix)
        legend = legend_of(self.matrix)
        return with_differences(legend, self.report.cells()) if self.report is not None else legend


def _show(query: Query, cluster: str | None) -> int:
    form, path = _form(query)
    ports = frozenset(map(port_of, query.ports))
    changed = read(query.diff) if query.diff else []
    with Cluster.attach(cluster) as running:
        found = _look(running, query, ports, changed)
    if form in _PICTURES:
        _draw(found, form, path, query)
    elif form == "text":
        _print(found, query)
    else:
        dump(_document(found), form)
    return found.code


def _form(query: Query) -> tuple[str, str]:
    """The form of the output, and the file that it goes to ("": standard output)."""
    form, _, path = query.output.partition("=")
    if form not in (*_TEXTS, *_PICTURES) or (path and form in _TEXTS):
        raise UserError(f"-o {query.output}: not known", "text, json, yaml; svg, png, html, also with =FILE")
    if query.probe and (query.changes or query.staged):
        raise UserError("--probe does not go with --diff, --without and --staged", "packets know only what is in force")
    if form == "png" and not path and sys.stdout.isatty():
        raise UserError("-o png: a picture is no text", "-o png=reach.png, or > reach.png")
    return form, path


def _look(running: Cluster, query: Query, ports: frozenset[Port], changed: Sequence[Object]) -> _Found:
    """Ask the API, and with ``--probe`` the packets."""
    client = running.client
    before = versions(client) if query.probe else {}
    if query.probe:
        await_in_force(client, before)
    judge = judge_of(client, staged=query.staged)
    listed = [pod for pod in client.list(PODS).items if query.selects(pod)]
    pods = sorted((pod for pod in listed if key_of(pod) in judge.selection.members), key=key_of)
    _say_left_out(listed, judge)
    if not pods:
        _say(f"No pods found{'' if query.everywhere else f' in {query.namespace} namespace'}.")
    subjects = subjects_of(pods, client.list(SERVICES).items, ports)
    found = answers(judge, subjects)
    difference = report = None
    if query.changes:
        take_away(judge, query.without, query.namespace or "default")
        for line in apply_to(judge, changed, staged=query.staged):
            _say(line)
        after = answers(judge, subjects)
        difference = fold(found.difference(after))
        found = found.followed_by(after)
    matrix = fold(found)
    if query.probe:
        report = probe(matrix, judge.selection.members, pods, query.most)
        for note in report.notes:
            _say(note)
        if report.differences and versions(client) != before:
            _say("objects have changed while packets were under way: what differs may be due to that")
    return _Found(running.name, matrix, difference, report)


def subjects_of(pods: Iterable[Object], services: Iterable[Object], ports: frozenset[Port]) -> list[Subject]:
    """Pods with the ports that they are asked at: ``ports``, or without any what their containers declare and Services
    send to them."""
    index = ServiceIndex()
    for service in () if ports else services:
        index.put_service(service)
    return [Subject(key_of(pod), workload_of(pod), ports or _own_ports(pod, index)) for pod in pods]


def _own_ports(pod: Object, index: ServiceIndex) -> frozenset[Port]:
    spec = pod["spec"]
    running = [*filter(is_sidecar, spec.get("initContainers") or ()), *spec["containers"]]
    found = [port for container in running for port in declared_ports(container)]
    found += [port for service in index.services_of(pod) for port in target_ports(service)]
    return frozenset(Port(number, protocol) for protocol, number in found)


def _say(text: str) -> None:
    sys.stdout.flush()
    print(text, file=sys.stderr)


def _say_left_out(listed: Sequence[Object], judge: Judge) -> None:
    """Pods that no policy is about are in no row."""
    reasons = Counter(
        "on their node's network" if pod["spec"].get("hostNetwork") else "without an address, or done"
        for pod in listed
        if key_of(pod) not in judge.selection.members
    )
    for reason, count in reasons.items():
        _say(f"left out: {count} {'pod' if count == 1 else 'pods'} {reason}")


def _title(matrix: Matrix, query: Query) -> str:
    """What the table is about."""
    subjects = matrix.answers.subjects
    namespaces = len({subject.key.namespace for subject in subjects})
    ports = ", ".join(map(str, matrix.answers.ports)) if query.ports else "the ports that each declares"
    many = f"{len(subjects):,} {'pod' if len(subjects) == 1 else 'pods'}"
    where = f"{namespaces} {'namespace' if namespaces == 1 else 'namespaces'}"
    which = f" with {query.selector}" if query.selector else ""
    before = "what would change for " if query.changes else ""
    return f"{before}{many}{which} in {where}, at {ports}"


def _print(found: _Found, query: Query) -> None:
    matrix = found.matrix
    if found.difference is not None:
        print_changes(console(), [(each.opens, each.text(found.difference)) for each in changes(found.difference)])
    elif matrix.parties:
        console().print(f"{_title(matrix, query)}: rows connect to columns", soft_wrap=True, markup=False)
        if not query.ports and not all(subject.ports for subject in matrix.answers.subjects):
            console().print("(any of these: declares none, and is asked at all that others declare)", soft_wrap=True)
        console().print()
        print_matrix(console(), matrix, found.legend)
    if found.report is not None:
        _print_report(matrix, found.report)


def _document(found: _Found) -> dict[str, Any]:
    """For scripts. Pods reach themselves; that is not said."""
    if found.difference is not None:
        return {"changes": [each for change in changes(found.difference) for each in change.objects(found.difference)]}
    asked = found.matrix.answers
    names = [str(subject.key) for subject in asked.subjects]
    document: dict[str, Any] = {
        "reach": [
            {
                "port": str(port),
                "pods": {name: [names[j] for j in bits(rows[i] & ~(1 << i))] for i, name in enumerate(names)},
            }
            for port, rows in zip(asked.ports, asked.layers, strict=True)
        ]
    }
    report = found.report
    if report is not None:
        document["probe"] = {
            "tried": report.tried,
            "total": report.total,
            "seconds": round(report.seconds, 3),
            "differences": [
                {
                    "source": names[each.trial.source],
                    "destination": names[each.trial.destination],
                    "port": str(asked.ports[each.trial.port]),
                    "computed": each.trial.expected,
                    "seen": not each.trial.expected,
                    "how": each.how,
                }
                for each in report.differences
            ],
        }
    return document


def _print_report(matrix: Matrix, report: Report) -> None:
    names = [str(subject.key) for subject in matrix.answers.subjects]
    console().print()
    for each in report.differences[:_SHOWN_DIFFERENCES]:
        trial = each.trial
        ends = f"{names[trial.source]} -> {names[trial.destination]}, {matrix.answers.ports[trial.port]}"
        says = "allowed" if trial.expected else "denied"
        console().print(f"differs: {ends}: {says} by policies, but {each.how}", soft_wrap=True, markup=False)
    more = len(report.differences) - _SHOWN_DIFFERENCES
    if more > 0:
        console().print(f"differs: {more} more: -o json has all")
    part = "all" if report.tried == report.total else "a sample"
    verdict = f"as computed but for {len(report.differences):,}" if report.differences else "all as computed"
    console().print(
        f"tried {report.tried:,} connections ({part} of {report.total:,}) in {report.seconds:.1f} s: {verdict}"
    )


def _draw(found: _Found, form: str, path: str, query: Query) -> None:
    from kmn.policy.picture import draw

    title = f"{found.cluster}: {_title(found.matrix, query)}"
    data = draw(found.matrix, found.legend, form, title=title, when=dt.datetime.now(dt.UTC))
    if path:
        with open(path, "wb") as file:
            file.write(data)
    else:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
