"""``python -m kmn.ingress --kubeconfig PATH --run DIR``: all ingress controllers of a cluster.

Follows the API, computes what each controller does, and keeps an Envoy with it in each of their pods, and in the place
of each load balancer that is a proxy.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import logging
import sys
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import uvloop

from kmn import garbage
from kmn.ingress.certificates import self_signed
from kmn.ingress.counting import COUNTERS_SOCKET, Counting
from kmn.ingress.gateway.report import status_changes
from kmn.ingress.manifests import CONTROLLER, INGRESS_PROGRAM
from kmn.ingress.proxy import PodProxy, folder_of
from kmn.ingress.state import RESOURCES, State, View, balancer
from kmn.ingress.status import Report, Writer, report_of
from kmn.k8s.errors import ApiError
from kmn.k8s.feed import Feed
from kmn.k8s.objects import Key, Object, annotation, uid_of
from kmn.k8s.resources import APPLICATIONLOADBALANCERS, ENDPOINTSLICES, NETWORKLOADBALANCERS, NODES, PODS, Resource
from kmn.k8s.rest import RestClient
from kmn.programs.placement import Place, Placement
from kmn.programs.serving import serve

__all__ = ["main"]

log = logging.getLogger("kmn.ingress")

_TELL_AGAIN = 1.0  # seconds after which a report that could not be written is written again
_YOUNG = 50_000  # a view of a thousand Ingresses is hundreds of thousands of objects, none of them garbage
_DEFAULT_NAME = "Kubernetes Ingress Controller Fake Certificate"  # as users of ingress-nginx know it


class Controllers:
    """What all controllers of the cluster do, from the objects to the proxies."""

    def __init__(self, client: RestClient, folder: Path) -> None:
        self._folder = folder
        self._state = State(self_signed(_DEFAULT_NAME))
        self._views: dict[str, View] = {}
        self._seen = 0  # the version of the state that they are of
        self._changed = asyncio.Event()
        self._writer = Writer(client)
        self._told: Report | None = None
        self._telling: asyncio.Future[bool] | None = None
        self._counting = Counting(self._look_at_logs)
        self._ours: set[str] = set()  # all addresses that there have been
        # Something may have changed while a proxy was started.
        self._pods = Placement(
            INGRESS_PROGRAM,
            self._proxy,
            detail=lambda pod: annotation(pod, CONTROLLER) or "",
            started=self._changed.set,
        )
        self._balancers = Placement(
            INGRESS_PROGRAM,
            self._proxy,
            started=self._changed.set,
            place=_place_of_balancer,
        )

    def update(self, resource: Resource, key: Key, obj: Object | None) -> None:
        """Take an object's new state in; None: it is gone."""
        if self._state.update(resource, key, obj):
            self._changed.set()
        if resource is PODS:
            self._pods.update(key, obj)
        elif resource in (APPLICATIONLOADBALANCERS, NETWORKLOADBALANCERS):
            self._balancers.update(key, obj)
        elif resource is ENDPOINTSLICES:
            self._counting.name_pods(key, obj)
        elif resource is NODES:
            self._counting.name_node(key, obj)

    async def run(self) -> None:
        """Work until cancelled; then no proxy is left."""
        with ThreadPoolExecutor(1, thread_name_prefix="status") as writing:
            self._look()
            placing = {asyncio.create_task(each.run()) for each in (self._pods, self._balancers)}
            try:
                async with self._counting.told(self._folder / COUNTERS_SOCKET):
                    await self._work(placing, writing)
            finally:
                for task in placing:
                    task.cancel()
                await asyncio.gather(*placing, return_exceptions=True)

    async def _work(self, placing: Collection[asyncio.Task[None]], writing: ThreadPoolExecutor) -> None:
        while True:
            self._changed.clear()
            self._look()
            await self._bring_into_force()
            self._tell(writing)
            waiting = asyncio.create_task(self._changed.wait())
            await asyncio.wait({waiting, *placing}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            for task in placing:
                if task.done():
                    task.result()  # raises what ended it

    def _look(self) -> None:
        if self._state.version == self._seen:
            return
        self._seen = self._state.version
        self._views = self._state.views(self._views)

    async def _bring_into_force(self) -> None:
        proxies = [(proxy, self._views.get(proxy.place.detail)) for proxy in self._serving()]
        await asyncio.gather(*(proxy.update(view.config) for proxy, view in proxies if view is not None))

    def _tell(self, writing: ThreadPoolExecutor) -> None:
        """Write back what is new; what comes while that goes on is looked at afterwards."""
        if self._telling is not None and not self._telling.done():
            return
        report = self._report()
        if report != self._told:
            self._told = report
            self._telling = asyncio.get_running_loop().run_in_executor(writing, self._writer.write, report)
            self._telling.add_done_callback(self._has_told)

    def _has_told(self, telling: asyncio.Future[bool]) -> None:
        if telling.cancelled() or telling.exception() is not None or not telling.result():
            self._told = None
            asyncio.get_running_loop().call_later(_TELL_AGAIN, self._changed.set)
        else:
            self._changed.set()

    def _report(self) -> Report:
        # A load balancer is there when its proxy is; controllers have theirs behind one that is there before.
        serving = {proxy.place.detail for proxy in self._balancers.serving.values()} | self._state.controllers()
        views = [view for name, view in self._views.items() if name in serving]
        wanted = {key: view.addresses for view in views for key in view.ingresses}
        self._ours |= {address for view in views for address in view.addresses}
        problems = [*(problem for view in views for problem in view.problems), *self._state.groups()[1]]
        report = report_of(dict(self._state.ingresses()), wanted, self._ours, problems, self._state.find)
        readings = [view.reading for view in self._views.values() if view.reading is not None]
        statuses = status_changes(readings, self._state.gateways(), self._state.routes())
        return replace(report, statuses=tuple(statuses))

    def _proxy(self, place: Place) -> PodProxy:
        view = self._views.get(place.detail) or self._state.view(place.detail)
        folder = folder_of(self._folder, place.uid)
        log_file = self._folder / "log" / f"envoy-{folder.name}.log"
        count = functools.partial(self._counting.take, place.detail)
        return PodProxy(place, folder, log_file, view.config, count)

    def _look_at_logs(self) -> None:
        for proxy in self._serving():
            proxy.log.look()

    def _serving(self) -> list[PodProxy]:
        return [*self._pods.serving.values(), *self._balancers.serving.values()]


def _place_of_balancer(obj: Object) -> Place | None:
    """None for one that is at the edge no more, or not yet."""
    status = obj.get("status") or {}
    if not status.get("netns"):
        return None
    return Place(uid_of(obj), status["netns"], (status["address"],), balancer(obj))


async def _serve(client: RestClient, folder: Path) -> None:
    controllers = Controllers(client, folder)
    await serve([Feed(client, RESOURCES, controllers.update)], [controllers.run])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="kmn.ingress", description="The ingress controllers of one cluster.")
    parser.add_argument("--kubeconfig", type=Path, required=True, help="how to reach the cluster's API")
    parser.add_argument("--run", type=Path, required=True, help="the cluster's folder for files of running processes")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    garbage.spread(young=_YOUNG)
    try:
        client = RestClient.from_kubeconfig(args.kubeconfig)
    except (ApiError, OSError, ValueError) as error:
        log.error("%s", error)
        return 1
    uvloop.run(_serve(client, args.run))
    return 0


if __name__ == "__main__":
    sys.exit(main())
