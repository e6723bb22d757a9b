"""``kmn reach --probe``: what packets do, beside what policies say."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from kmn import probing
from kmn.errors import UserError
from kmn.k8s.client import Client
from kmn.k8s.dataplane import DATAPLANE_NAME, NETNS, OBSERVED_RESOURCES
from kmn.k8s.errors import NotFound
from kmn.k8s.objects import Key, Object, annotation
from kmn.k8s.resources import DATAPLANES, NAMESPACES, NODES, PODS, POLICIES
from kmn.policy.matrix import Matrix
from kmn.policy.sampling import Trial, trials
from kmn.policy.selection import Member
from kmn.probing import Outcome, Probe

__all__ = ["Difference", "Report", "await_in_force", "probe", "versions"]

_PATIENCE = 10.0  # seconds for the data plane to have in force what the objects say
_PAUSE = 0.05
_CONCERNED = (NODES, PODS, NAMESPACES, *POLICIES)


@dataclass(frozen=True, slots=True)
class Difference:
    """A connection that does other than it should."""

    trial: Trial
    how: str


@dataclass(frozen=True, slots=True)
class Report:
    """What was tried, of how much, and what came out different."""

    tried: int
    total: int
    seconds: float
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]  # what was left out, and why

    def cells(self) -> set[tuple[int, int]]:
        """Where differences are."""
        return {difference.trial.cell for difference in self.differences}


def versions(client: Client) -> dict[str, str]:
    """Up to where the objects that reach depends on have come."""
    return {resource.plural: client.list(resource).resource_version for resource in _CONCERNED}


def await_in_force(client: Client, wanted: Mapping[str, str]) -> None:
    """Return when bridges do what the objects say. Raises UserError after some seconds."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            observed = (client.get(DATAPLANES, "", DATAPLANE_NAME).get("status") or {}).get("observed") or {}
        except NotFound:
            observed = {}
        late = [
            plural
            for plural, version in wanted.items()
            if plural in OBSERVED_RESOURCES and int(observed.get(plural, "-1")) < int(version)
        ]
        if not late:
            return
        if time.monotonic() > deadline:
            raise UserError(
                f"the data plane does not have all {', '.join(late)} in force after {_PATIENCE:g} s",
                "kmn get dataplane -o yaml says how far it has come",
            )
        time.sleep(_PAUSE)


def probe(matrix: Matrix, members: Mapping[Key, Member], pods: Sequence[Object], most: int) -> Report:
    """Send packets between the pods of a matrix, at most so many connections. ``pods`` are in the order of the matrix's
    subjects."""
    subjects = matrix.answers.subjects
    places = {place: name for place, pod in enumerate(pods) if (name := _namespace_of(pod))}
    chosen = trials(matrix, places, most)
    probes = []
    for trial in chosen.chosen:
        port = matrix.answers.ports[trial.port]
        address = next(a for a in members[subjects[trial.destination].key].addresses if isinstance(a, IPv4Address))
        probes.append(
            Probe(places[trial.source], places[trial.destination], address, port.number, port.protocol, trial.expected)
        )
    begin = time.monotonic()
    outcomes = probing.send(probes)
    seconds = time.monotonic() - begin
    notes = []
    if len(places) < len(subjects):
        notes.append(f"not probed: {_pods(len(subjects) - len(places))} not running")
    untried = [str(port) for port in matrix.answers.ports if port.protocol == "SCTP"]
    if untried:
        notes.append(f"not probed: {', '.join(untried)}: this sends TCP and UDP only")
    gone = sum(outcome.arrived is None for outcome in outcomes)
    if gone:
        notes.append(f"not probed: {gone} connections of pods that are gone by now")
    return Report(len(probes) - gone, chosen.total, seconds, _differences(chosen.chosen, outcomes), tuple(notes))


def _differences(chosen: Sequence[Trial], outcomes: Sequence[Outcome]) -> tuple[Difference, ...]:
    return tuple(
        Difference(trial, outcome.how)
        for trial, outcome in zip(chosen, outcomes, strict=True)
        if outcome.arrived is not None and outcome.arrived != trial.expected
    )


def _namespace_of(pod: Object) -> str | None:
    """Of a pod that runs: its network namespace."""
    running = (pod.get("status") or {}).get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
    return annotation(pod, NETNS) if running else None


def _pods(count: int) -> str:
    return "1 pod that is" if count == 1 else f"{count} pods that are"
