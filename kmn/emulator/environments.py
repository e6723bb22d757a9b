"""What the environment of containers is made of (``podenv``), kept at hand: the Services of each namespace."""

from __future__ import annotations

from kmn.apiserver.local import LocalClient
from kmn.emulator.podenv import Environment, container_environment, service_variables
from kmn.k8s.client import WatchEvent
from kmn.k8s.errors import NotFound
from kmn.k8s.objects import Object, key_of, name_of, namespace_of
from kmn.k8s.resources import CONFIGMAPS, SECRETS

__all__ = ["Environments"]

_MASTER_NAMESPACE, _MASTER_SERVICE = "default", "kubernetes"  # whose variables every container has
_RESOURCES = {"ConfigMap": CONFIGMAPS, "Secret": SECRETS}


class Environments:
    """Variables are worked out once a namespace, until one of its Services changes."""

    def __init__(self, client: LocalClient) -> None:
        self._client = client
        self._services: dict[str, dict[str, Object]] = {}  # by namespace and name
        self._made: dict[tuple[str, bool], dict[str, str]] = {}  # by namespace, and whether its Services are wanted

    def observe_service(self, event: WatchEvent) -> None:
        key = key_of(event.object)
        of_namespace = self._services.setdefault(key.namespace, {})
        if event.type == "DELETED":
            of_namespace.pop(key.name, None)
        else:
            of_namespace[key.name] = event.object
        if key == (_MASTER_NAMESPACE, _MASTER_SERVICE):
            self._made.clear()
        self._made.pop((key.namespace, True), None)

    def of(self, pod: Object, container: Object) -> Environment:
        """The environment of a container that starts now. Raises ConfigError."""
        links = pod["spec"].get("enableServiceLinks") is not False
        return container_environment(pod, container, self._variables(namespace_of(pod), links), self._lookup)

    def _variables(self, namespace: str, links: bool) -> dict[str, str]:
        made = self._made.get((namespace, links))
        if made is None:
            masters = self._services.get(_MASTER_NAMESPACE, {}).get(_MASTER_SERVICE)
            found = {name_of(masters): masters} if masters else {}
            if links:
                found |= self._services.get(namespace, {})
            made = service_variables(found[name] for name in sorted(found))
            self._made[namespace, links] = made
        return made

    def _lookup(self, kind: str, namespace: str, name: str) -> Object | None:
        try:
            return self._client.get(_RESOURCES[kind], namespace, name)
        except NotFound:
            return None
