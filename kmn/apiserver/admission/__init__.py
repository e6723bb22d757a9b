"""What happens to an object between a client and the store: schema, defaults, semantic validation, addresses.

In this order, for the reasons of the API server: defaults need the right types, rules read defaulted fields, and an
address is taken only by an object that nothing else refuses. Objects of kmn itself (``trusted``) skip the two checks.
"""

from __future__ import annotations

from kmn.apiserver.admission.defaults import set_defaults
from kmn.apiserver.admission.ingressclasses import fill_default_class
from kmn.apiserver.admission.ipfamilies import settle_families
from kmn.apiserver.admission.schema import check_schema, fill_defaults
from kmn.apiserver.admission.services import ServiceAllocator, carry_over
from kmn.apiserver.admission.surroundings import StoreSurroundings
from kmn.apiserver.admission.validation import validate
from kmn.apiserver.admission.warnings import warnings_of
from kmn.apiserver.admission_api import Operation
from kmn.apiserver.store import Store
from kmn.cluster_spec import ClusterSpec
from kmn.k8s.errors import FieldError, Invalid
from kmn.k8s.objects import Object
from kmn.k8s.resources import CLUSTERS, INGRESSES, SERVICES, Resource

__all__ = ["ClusterAdmission"]


class ClusterAdmission:
    """Admission of one cluster; owns its Service addresses and node ports.

    What a policy selects is looked up in ``store``, for warnings, and so is the default IngressClass; without a store
    neither is known.
    """

    def __init__(self, spec: ClusterSpec, store: Store | None = None) -> None:
        self._services = ServiceAllocator(*spec.service_cidrs)
        self._store = store
        self._around = StoreSurroundings(store) if store is not None else None

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
        """The defaulted object and warnings; see :class:`kmn.apiserver.admission_api.Admission`."""
        warnings: list[str] = []
        if not trusted:
            if resource is CLUSTERS:
                message = "written by kmn alone; the cluster file describes a cluster"
                raise Invalid(resource.kind, _name(new), [FieldError("kind", message)])
            errors, warnings = check_schema(new, strict=strict)
            if errors:
                raise Invalid(resource.kind, _name(new), errors)
        if resource is SERVICES and old is not None:
            new.setdefault("spec", {})
            carry_over(new, old)
        new["apiVersion"] = resource.api_version  # the version that is stored; others differ in no field that matters
        set_defaults(new)
        if resource.custom:
            fill_defaults(new)
        if resource is INGRESSES and operation == "CREATE" and self._store is not None:
            fill_default_class(new, self._store)
        wrong_families = settle_families(new, old, self._services.families) if resource is SERVICES else []
        if wrong_families and trusted:
            raise Invalid(resource.kind, _name(new), wrong_families)
        if not trusted:
            errors = [*wrong_families, *validate(resource, new, old)]
            if errors:
                raise Invalid(resource.kind, _name(new), errors)
            warnings += warnings_of(new, self._around)
        if resource is SERVICES:
            self._services.allocate(new, old)
        return new, warnings

    def released(self, resource: Resource, obj: Object) -> None:
        """What was allocated for an object that is gone is free."""
        if resource is SERVICES:
            self._services.release(obj)


def _name(obj: Object) -> str:
    """``default/web``, of an object that may lack everything."""
    meta = obj.get("metadata")
    if not isinstance(meta, dict):
        return "<unnamed>"
    name = str(meta.get("name") or meta.get("generateName") or "<unnamed>")
    return f"{meta['namespace']}/{name}" if meta.get("namespace") else name
