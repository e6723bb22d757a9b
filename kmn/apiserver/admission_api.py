"""What the registry asks before an object is stored: defaults, validation, allocation of addresses."""

from __future__ import annotations

from typing import Literal, Protocol

from kmn.k8s.objects import Object
from kmn.k8s.resources import Resource

__all__ = ["Admission", "NullAdmission", "Operation"]

Operation = Literal["CREATE", "UPDATE"]


class Admission(Protocol):
    """Decides about writes. Implemented by ``kmn.apiserver.admission.ClusterAdmission``."""

    def admit(
        self,
        operation: Operation,
        resource: Resource,
        new: Object,
        old: Object | None,
        *,
        trusted: bool,
        strict: bool = True,
    ) -> tuple[Object, list[str]]:
        """The object to store (``new`` is private to the call and may be changed and returned) and warnings.

        ``trusted`` objects come from kmn itself; ``strict`` refuses unknown fields instead of warning of them.
        Raises ApiError to refuse: then nothing may have been allocated.
        """
        ...

    def released(self, resource: Resource, obj: Object) -> None:
        """The object is gone for good (or a dry run is over): what was allocated for it is free."""
        ...


class NullAdmission:
    """Admits everything as it is: for a store without a cluster."""

    def admit(
        self,
        operation: Operation,
        resource: Resource,
        new: Object,
        old: Object | None,
        *,
        trusted: bool,
        strict: bool = True,
    ) -> tuple[Object, list[str]]:
        """``new`` itself, no warnings."""
        return new, []

    def released(self, resource: Resource, obj: Object) -> None:
        """Nothing was allocated."""
