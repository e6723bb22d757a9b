"""Which IP families a Service has: ``spec.ipFamilyPolicy`` and ``spec.ipFamilies``, defaulted and checked.

After ``initIPFamilyFields`` of ``pkg/registry/core/service/storage/alloc.go`` and
``validateUpgradeDowngradeIPFamilies``
of ``pkg/apis/core/validation``, with their words. Giving the addresses is the allocator's part (``services``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kmn.apiserver.admission.rules import Errors
from kmn.k8s.families import FAMILIES, family_of
from kmn.k8s.objects import Object

__all__ = ["settle_families", "trim_secondary"]

_POLICIES = ("SingleStack", "PreferDualStack", "RequireDualStack")
_PATH = "spec.ipFamilyPolicy"

Fields = dict[str, Any]


def trim_secondary(spec: Fields, was: Fields) -> None:
    """A change of policy alone makes a dual-stack Service single-stack: the second family and its address go.

    After ``trimFieldsForDualStackDowngrade``.
    """
    if was.get("ipFamilyPolicy") in _POLICIES[1:] and spec.get("ipFamilyPolicy") == "SingleStack":
        for field in ("clusterIPs", "ipFamilies"):
            if len(spec.get(field) or ()) > 1:
                spec[field] = spec[field][:1]


def settle_families(new: Object, old: Object | None, configured: Sequence[str]) -> Errors:
    """Fill in policy and families of a Service, and ``clusterIPs`` from ``clusterIP``; what is wrong with those given.

    ``configured`` are the cluster's families, the primary one first.
    """
    errors, spec, was = Errors(), new["spec"], (old or {}).get("spec") or {}
    if spec.get("type") == "ExternalName":
        return errors
    if spec.get("clusterIP") and not spec.get("clusterIPs"):
        spec["clusterIPs"] = [spec["clusterIP"]]
    if _stays_preferred(spec, was):
        return errors  # it is not upgraded because the cluster has become dual-stack
    if not spec.get("ipFamilyPolicy"):
        spec["ipFamilyPolicy"] = _default_policy(spec)
    _shape(errors, spec)
    if errors:
        return errors
    policy, addresses = spec["ipFamilyPolicy"], spec.get("clusterIPs") or []
    families = spec["ipFamilies"] = list(spec.get("ipFamilies") or ())
    if was.get("type", "ExternalName") != "ExternalName" and policy != "SingleStack":
        if addresses and len(addresses) < len(was.get("clusterIPs") or ()):
            errors.invalid(_PATH, policy, "must be 'SingleStack' to release the secondary cluster IP")
        if families and len(families) < len(was.get("ipFamilies") or ()):
            errors.invalid(_PATH, policy, "must be 'SingleStack' to release the secondary IP family")
    if policy == "SingleStack":
        for what, values in (("cluster IPs", addresses), ("IP families", families)):
            if len(values) == 2:
                must = f"must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"
                errors.invalid(_PATH, policy, must)
    for index, address in enumerate(addresses):
        if address != "None" and index >= len(families):
            family = family_of(address)
            if family not in configured:
                errors.invalid(f"spec.clusterIPs[{index}]", address, f"{family} is not configured on this cluster")
            else:
                families.append(family)
    if errors:
        return errors
    # Whoever writes the endpoints of such a Service decides of what family they are.
    if not (_headless(spec) and not spec.get("selector")):
        if policy == "RequireDualStack" and len(configured) < 2:
            errors.invalid(_PATH, policy, "this cluster is not configured for dual-stack services")
        for index, family in enumerate(families):
            if family not in configured:
                errors.invalid(f"spec.ipFamilies[{index}]", family, "not configured on this cluster")
        if errors:
            return errors
        may_be_two = len(configured) == 2
    else:
        may_be_two = True
    if not families:
        families.append(configured[0])
    if policy != "SingleStack" and len(families) == 1 and may_be_two:
        families.append(FAMILIES[1 - FAMILIES.index(families[0])])
    _unchanged_primary(errors, spec, was)
    return errors


def _headless(spec: Fields) -> bool:
    return (spec.get("clusterIP") or next(iter(spec.get("clusterIPs") or ()), "")) == "None"


def _default_policy(spec: Fields) -> str:
    two = len(spec.get("clusterIPs") or ()) == 2 or len(spec.get("ipFamilies") or ()) == 2
    return "RequireDualStack" if two or (_headless(spec) and not spec.get("selector")) else "SingleStack"


def _stays_preferred(spec: Fields, was: Fields) -> bool:
    """``isMatchingPreferDualStackClusterIPFields``."""
    return (
        spec.get("ipFamilyPolicy") == was.get("ipFamilyPolicy") == "PreferDualStack"
        and bool(was.get("ipFamilies"))
        and (spec.get("clusterIPs") or []) == (was.get("clusterIPs") or [])
        and (spec.get("ipFamilies") or []) == was["ipFamilies"]
    )


def _shape(errors: Errors, spec: Fields) -> None:
    """``ValidateServiceClusterIPsRelatedFields``, but for what is said of the addresses themselves."""
    families, addresses = spec.get("ipFamilies") or [], spec.get("clusterIPs") or []
    for index, family in enumerate(families):
        errors.choice(f"spec.ipFamilies[{index}]", family, FAMILIES)
        if family in families[:index]:
            errors.duplicate(f"spec.ipFamilies[{index}]", family)
    errors.choice(_PATH, spec["ipFamilyPolicy"], _POLICIES)
    if len(addresses) > 1 and "None" in addresses:
        errors.invalid("spec.clusterIPs", addresses, "'None' must be the first and only value")
    elif len(addresses) > 2:
        errors.invalid("spec.clusterIPs", addresses, "may only hold up to 2 values")
    elif len(addresses) == 2 and len({family_of(address) for address in addresses}) < 2:
        errors.invalid("spec.clusterIPs", addresses, "may specify no more than one IP for each IP family")
    for index, (address, family) in enumerate(zip(addresses, families, strict=False)):
        if address != "None" and family in FAMILIES and family_of(address) != family:
            must = f"expected an {family} value as indicated by `ipFamilies[{index}]`"
            errors.invalid(f"spec.clusterIPs[{index}]", address, must)


def _unchanged_primary(errors: Errors, spec: Fields, was: Fields) -> None:
    """``validateUpgradeDowngradeIPFamilies``: headless Services have no address of a family, and may change."""
    before = was.get("ipFamilies") or []
    may_change = was.get("type") == "ExternalName" or (_headless(spec) and _headless(was))
    if before and not may_change and spec["ipFamilies"][0] != before[0]:
        errors.invalid("spec.ipFamilies[0]", spec["ipFamilies"], "may not change once set")
