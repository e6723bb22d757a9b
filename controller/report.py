"""``DataPlane/default``: what the controller tells the rest of the cluster."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from controller.problems import Problem
from kmn.k8s.client import Client
from kmn.k8s.dataplane import DATAPLANE_NAME, OBSERVED_RESOURCES
from kmn.k8s.errors import AlreadyExists, ApiError, NotFound
from kmn.k8s.objects import Object
from kmn.k8s.resources import DATAPLANES

__all__ = ["BridgeStatus", "Report", "Reporter"]

LOG = logging.getLogger(__name__)


class BridgeStatus(NamedTuple):
    """One bridge. ``connected`` means connected and in step; ``flows`` and ``groups`` are the desired ones."""

    name: str
    listening: bool
    connected: bool
    flows: int
    groups: int


class Report(NamedTuple):
    """Resource versions that are in force on every connected bridge, the bridges, and objects that are ignored."""

    observed: Mapping[str, str]
    nodes: tuple[BridgeStatus, ...]
    problems: tuple[str, ...] = ()
    drops: tuple[Problem, ...] = ()  # packets that are lost for want of something

    def status(self) -> dict[str, Any]:
        """The status of the DataPlane object."""
        observed = {resource: self.observed[resource] for resource in OBSERVED_RESOURCES if resource in self.observed}
        status: dict[str, Any] = {"observed": observed, "nodes": [node._asdict() for node in self.nodes]}
        if self.drops:
            status["drops"] = [problem.status() for problem in self.drops]
        return {**status, "problems": list(self.problems)} if self.problems else status


class Reporter:
    """Writes the newest report in a thread of its own, at once; those that it could not keep up with are skipped."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._news = threading.Condition()
        self._newest: Report | None = None

    def start(self) -> None:
        threading.Thread(target=self._run, name="reporter", daemon=True).start()

    def submit(self, report: Report) -> None:
        with self._news:
            self._newest = report
            self._news.notify()

    def _run(self) -> None:
        while True:
            with self._news:
                while self._newest is None:
                    self._news.wait()
                report, self._newest = self._newest, None
            while not self._write(report.status()):
                with self._news:
                    self._news.wait(timeout=0.5)
                    report, self._newest = self._newest or report, None

    def _write(self, status: dict[str, Any]) -> bool:
        """False when the API could not be reached or refused."""
        obj: Object = {
            "apiVersion": DATAPLANES.api_version,
            "kind": DATAPLANES.kind,
            "metadata": {"name": DATAPLANE_NAME},
        }
        try:
            try:
                self._client.update({**obj, "status": status}, subresource="status")
            except NotFound:
                try:
                    self._client.create(obj)
                except AlreadyExists:
                    pass
                self._client.update({**obj, "status": status}, subresource="status")
        except ApiError as error:
            LOG.warning("DataPlane %s: status not written: %s", DATAPLANE_NAME, error)
            return False
        return True
