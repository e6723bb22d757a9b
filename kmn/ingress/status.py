"""What is written back: the addresses of a controller on its Ingresses, statuses of Gateways and routes, and Events
about what has no effect."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from kmn.ingress.gateway.report import StatusChange
from kmn.ingress.model import Owner, Problem
from kmn.k8s.client import Client
from kmn.k8s.errors import ApiError
from kmn.k8s.events import Recorder
from kmn.k8s.objects import Key, Object, describe
from kmn.k8s.resources import INGRESSES

__all__ = ["Report", "Writer", "report_of"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Report:
    """``addresses`` has the Ingresses whose status is to change; problems come with the object that they are of.
    ``statuses`` are those of Gateways and routes."""

    addresses: tuple[tuple[Key, tuple[str, ...]], ...]
    problems: tuple[tuple[Object, Problem], ...]
    statuses: tuple[StatusChange, ...] = ()


def report_of(
    ingresses: Mapping[Key, Object],
    wanted: Mapping[Key, tuple[str, ...]],
    ours: Collection[str],
    problems: Iterable[Problem],
    find: Callable[[Owner], Object | None],
) -> Report:
    """``wanted`` has the addresses of the Ingresses that are taken. Another one that has one of ``ours``, all that the
    controllers have, loses it."""
    changes = []
    for key, ingress in ingresses.items():
        has = _addresses(ingress)
        if key not in wanted and not set(ours).issuperset(has):
            continue  # somebody else's
        if has != wanted.get(key, ()):
            changes.append((key, wanted.get(key, ())))
    told = ((find(problem.owner), problem) for problem in problems)
    return Report(tuple(changes), tuple((owner, problem) for owner, problem in told if owner is not None))


def _addresses(ingress: Object) -> tuple[str, ...]:
    entries = ((ingress.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    return tuple(entry.get("ip") or entry.get("hostname") or "" for entry in entries)


def _is_ip(address: str) -> bool:
    try:
        ip_address(address)
    except ValueError:
        return False
    return True


class Writer:
    """Writes reports, in a thread: the API is asked over HTTPS. Each problem is told once as long as it lasts."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._recorder = Recorder(client, "ingress-controller")
        self._told: set[Problem] = set()

    def write(self, report: Report) -> bool:
        """False when something could not be written: the object is gone, or the API is away."""
        complete = True
        for key, addresses in report.addresses:
            entries = [{"ip" if _is_ip(address) else "hostname": address} for address in addresses]
            patch = {"status": {"loadBalancer": {"ingress": entries or None}}}
            try:
                self._client.patch(INGRESSES, key.namespace, key.name, patch, subresource="status")
            except ApiError as error:
                log.info("status of Ingress %s is not written: %s", key, error)
                complete = False
        for change in report.statuses:
            kind, key = change.resource.kind, change.key
            try:
                present = self._client.get(change.resource, key.namespace, key.name)
                self._client.update({**present, "status": change.status}, subresource="status")
            except ApiError as error:
                log.info("status of %s %s is not written: %s", kind, key, error)
                complete = False
        for owner, problem in report.problems:
            if problem not in self._told:
                self._recorder.event(owner, "Warning", problem.reason, problem.message)
                log.info("%s: %s", describe(owner), problem.message)
        self._told = {problem for _, problem in report.problems}
        return complete
