"""Policies as they would be: what ``kmn reach --diff FILE --without POLICY`` compares with what is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from kmn.apiserver.admission.defaults import set_defaults
from kmn.apiserver.admission.schema import check_schema
from kmn.apiserver.admission.validation import validate
from kmn.errors import UserError
from kmn.k8s.objects import Key, Object, describe, draft, labels, name_of, resource_of
from kmn.k8s.resources import NAMESPACES, NETWORKPOLICIES, POLICIES, Resource, by_word
from kmn.policy.clusterwide import policy_of
from kmn.policy.verdicts import Judge

__all__ = ["apply_to", "take_away"]


def apply_to(judge: Judge, objects: Iterable[Object], *, staged: bool = False) -> list[str]:
    """Set policies as if they were applied, and labels of Namespaces; policies that are only tried out if ``staged``.

    What else there is does not count: the answer names it, each with the reason. Raises UserError for what the API
    server would refuse.
    """
    ignored = []
    for obj in objects:
        resource = resource_of(obj)
        if resource is NAMESPACES:
            name = name_of(obj)
            judge.selection.set_namespace(name, {**judge.selection.namespaces.get(name, {}), **labels(obj)})
        elif resource in POLICIES:
            policy = policy_of(_admitted(resource, obj))
            if policy.staged and not staged:
                judge.remove_policy(policy.kind, policy.key)
                ignored.append(f"{policy}: is only tried out: as if it were not there, without --staged")
            else:
                judge.set_policy(policy)
        else:
            ignored.append(f"{describe(obj)}: is not compared, only policies and labels of Namespaces are")
    return ignored


def take_away(judge: Judge, words: Sequence[str], namespace: str) -> None:
    """Remove policies as if they were deleted: ``[TYPE/]NAME`` in ``namespace``, ``NAMESPACE/NAME``,
    ``TYPE/NAMESPACE/NAME``. Raises UserError for what there is not."""
    there = {(policy.kind, policy.key) for policy in judge.policies}
    for word in words:
        resource, key = _named(word, namespace)
        if (resource.kind, key) not in there:
            names = [str(other).lstrip("/") for kind, other in there if kind == resource.kind]
            near = difflib.get_close_matches(str(key).lstrip("/"), names, n=3, cutoff=0.5) or sorted(names)[:5]
            raise UserError(
                f"--without {word}: {resource.kind} {str(key).lstrip('/')}: not found",
                f"there are: {', '.join(near)}" if near else "there are none in force",
            )
        judge.remove_policy(resource.kind, key)


def _named(word: str, namespace: str) -> tuple[Resource, Key]:
    first, *rest = word.split("/")
    resource = NETWORKPOLICIES
    if rest:
        found = next((resource for resource in by_word(first) if resource in POLICIES), None)
        if found is not None:
            resource, rest = found, rest
        else:
            rest = [first, *rest]
    else:
        rest = [first]
    if not all(rest) or len(rest) > 1 + resource.namespaced:
        raise UserError(f"--without {word}: not understood", "NAME, TYPE/NAME, NAMESPACE/NAME or TYPE/NAMESPACE/NAME")
    where = (rest[0] if len(rest) == 2 else namespace) if resource.namespaced else ""
    return resource, Key(where, rest[-1])


def _admitted(resource: Resource, obj: Object) -> Object:
    """A policy as the API server would take it."""
    made = draft(obj)
    if resource.namespaced:
        made["metadata"].setdefault("namespace", "default")
    errors, _ = check_schema(made, strict=True)
    if not errors:
        set_defaults(made)
        errors = validate(resource, made, None)
    if errors:
        raise UserError("\n".join(f"{describe(made)}: {error}" for error in errors))
    return made
