"""All that names and explains what bridges tell of policies, kept up to date object by object. Pure."""

from __future__ import annotations

from kmn.k8s.objects import Key, Object, labels
from kmn.k8s.resources import NAMESPACES, NODES, PODS, POLICIES, Resource
from kmn.policy.clusterwide import policy_of
from kmn.policy.deciders import Deciders
from kmn.policy.model import Direction, Policy
from kmn.policy.places import Places
from kmn.policy.selection import Selection, member_of, node_member_of
from kmn.policy.verdicts import Judge

__all__ = ["World"]


class World:
    """Pods, policies, and whatever has an address."""

    resources = tuple(dict.fromkeys((NAMESPACES, *POLICIES, *Places.resources)))

    def __init__(self) -> None:
        self.selection = Selection()
        self.judge = Judge(self.selection)
        self.deciders = Deciders()
        self.places = Places()

    def put(self, resource: Resource, key: Key, obj: Object | None) -> None:
        """An object of one of ``resources`` came, changed or (None) went.

        One that makes no sense is as good as gone: the controller makes no flows of it, and says so in its status.
        """
        try:
            self._put(resource, key, obj)
        except ValueError:
            self._put(resource, key, None)

    def _put(self, resource: Resource, key: Key, obj: Object | None) -> None:
        if resource in Places.resources:
            self.places.put(resource, key, obj)
        if resource is NAMESPACES:
            if obj is not None or key.name in self.selection.namespaces:
                self.selection.set_namespace(key.name, labels(obj) if obj is not None else None)
        elif resource is NODES:
            self.selection.set_member(key, node_member_of(obj) if obj is not None else None)
        elif resource is PODS:
            self.selection.set_member(key, member_of(obj) if obj is not None else None)
            if obj is not None:
                self.deciders.put_pod(key)
        elif resource in POLICIES:
            self._put_policy(resource, key, obj)

    def isolating(self, pod: Key, direction: Direction, *, staged: bool) -> tuple[Policy, ...]:
        """The policies that isolate a pod now; with those that are only tried out, if ``staged``."""
        return tuple(policy for policy in self.judge.isolating(pod, direction) if staged or not policy.staged)

    def _put_policy(self, resource: Resource, key: Key, obj: Object | None) -> None:
        if obj is None:
            self.judge.remove_policy(resource.kind, key)
            return
        policy = policy_of(obj)
        self.judge.set_policy(policy)
        self.deciders.put_policy(policy)
