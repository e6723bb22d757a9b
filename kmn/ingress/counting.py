"""The counts of all ingress controllers of a cluster, and the Unix socket on which they are told.

Whoever connects gets one JSON document, and the end of the connection: see :func:`kmn.ingress.tally.counts_of`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path

import orjson

from kmn.ingress.tally import Tally
from kmn.k8s.families import internal_ips
from kmn.k8s.objects import Key, Object

__all__ = ["COUNTERS_SOCKET", "Counting"]

COUNTERS_SOCKET = "ingress-counters.sock"


class Counting:
    """``look`` is called before counts are told: it takes in what has come to the logs since."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        # By address; those that are gone stay until their address is another's.
        self._pods: dict[str, str] = {}
        self._nodes: dict[str, str] = {}
        # A pod on its node's network goes before the node.
        self._tally = Tally(lambda address: self._pods.get(address) or self._nodes.get(address, ""))

    def take(self, controller: str, lines: Sequence[bytes]) -> None:
        """Lines of the access log of one of a controller's proxies."""
        self._tally.take(controller, lines)

    def name_pods(self, key: Key, endpoint_slice: Object | None) -> None:
        """An EndpointSlice says which pods have which addresses."""
        for endpoint in (endpoint_slice or {}).get("endpoints") or ():
            pod = (endpoint.get("targetRef") or {}).get("name")
            if pod:
                self._name(self._pods, endpoint["addresses"], f"{key.namespace}/{pod}")

    def name_node(self, key: Key, node: Object | None) -> None:
        """A Node says its addresses: connections to node ports are to it."""
        if node is not None:
            self._name(self._nodes, internal_ips(node), f"node {key.name}")

    def _name(self, known: dict[str, str], addresses: Iterable[str], name: str) -> None:
        names = dict.fromkeys(addresses, name)
        if not names.items() <= known.items():
            known |= names
            self._tally.forget_names()

    @contextlib.asynccontextmanager
    async def told(self, path: Path) -> AsyncIterator[None]:
        """While it lasts, counts are told to those who ask."""
        # One that was killed has left its socket: asyncio replaces it.
        async with await asyncio.start_unix_server(self._tell, path):
            yield

    async def _tell(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._look()
        with contextlib.suppress(OSError):  # they are gone
            writer.write(orjson.dumps(self._tally.as_json()))
            await writer.drain()
        writer.close()
