"""Writing ``v1 Event`` objects: what ``kubectl describe`` and ``kubectl get events`` show about an object's life.

Like client-go's recorder: the same thing said again about the same object raises ``count`` instead of making another
object. A recorder keeps a bounded number of Events and deletes its oldest (upstream they expire after an hour).
Events are best effort: a recorder never raises because of the API.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from typing import Literal, NamedTuple

from kmn.k8s.client import Client
from kmn.k8s.errors import ApiError, NotFound
from kmn.k8s.objects import Object, describe, name_of, namespace_of, now
from kmn.k8s.resources import EVENTS

__all__ = ["EventType", "Recorder"]

EventType = Literal["Normal", "Warning"]

log = logging.getLogger("kmn.events")

_KEEP = 5_000  # Events of one recorder


class _Same(NamedTuple):
    """What makes two events one."""

    uid: str
    name: str
    type: str
    reason: str
    message: str


class Recorder:
    """Writes Events in the name of one component (``deployment-controller``, ``kubelet``)."""

    def __init__(self, client: Client, component: str, host: str = "") -> None:
        self._client = client
        self._source = {"component": component, **({"host": host} if host else {})}
        self._written: OrderedDict[_Same, Object] = OrderedDict()

    def event(self, obj: Object, type: EventType, reason: str, message: str) -> None:
        """Record that something happened to ``obj``. ``reason`` is one CamelCase word, ``message`` a sentence."""
        same = _Same(obj["metadata"].get("uid", ""), name_of(obj), type, reason, message)
        try:
            self._written[same] = self._again(same) or self._client.create(self._new(obj, same))
            self._written.move_to_end(same)
            if len(self._written) > _KEEP:
                self._drop(self._written.popitem(last=False)[1])
        except ApiError as error:
            # The namespace may be going, or the API away; what the event says is then of no use to anybody.
            log.debug("event %s of %s not written: %s", reason, describe(obj), error)

    def once(self, obj: Object, type: EventType, reason: str, message: str) -> None:
        """As :meth:`event`, but only the first time: for what stays true and need not be counted."""
        if _Same(obj["metadata"].get("uid", ""), name_of(obj), type, reason, message) not in self._written:
            self.event(obj, type, reason, message)

    def _again(self, same: _Same) -> Object | None:
        """Count an event that is there already; None when there is none."""
        earlier = self._written.get(same)
        if earlier is None:
            return None
        try:
            return self._client.update(
                {
                    **earlier,
                    "metadata": {k: v for k, v in earlier["metadata"].items() if k != "resourceVersion"},
                    "count": earlier["count"] + 1,
                    "lastTimestamp": now(),
                }
            )
        except NotFound:
            return None

    def _new(self, obj: Object, same: _Same) -> Object:
        at = now()
        involved = {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "name": name_of(obj), "uid": same.uid}
        if namespace_of(obj):
            involved["namespace"] = namespace_of(obj)
        return {
            "apiVersion": "v1",
            "kind": "Event",
            # Named as client-go does; events of cluster-scoped objects are kept in "default".
            "metadata": {
                "name": f"{name_of(obj)[:230]}.{time.time_ns():x}",
                "namespace": namespace_of(obj) or "default",
            },
            "involvedObject": involved,
            "type": same.type,
            "reason": same.reason,
            "message": same.message,
            "source": self._source,
            "reportingComponent": self._source["component"],
            "reportingInstance": self._source.get("host", ""),
            "count": 1,
            "firstTimestamp": at,
            "lastTimestamp": at,
        }

    def _drop(self, event: Object) -> None:
        try:
            self._client.delete(EVENTS, namespace_of(event), name_of(event))
        except NotFound:
            pass
