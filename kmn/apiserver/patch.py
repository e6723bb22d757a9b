"""The kinds of patches that the API takes. Each makes a new object and leaves the current one as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jsonpatch

from kmn.apiserver.strategic import strategic_merge
from kmn.k8s.client import PatchType
from kmn.k8s.errors import ApiError, Reason
from kmn.k8s.objects import Object, describe

__all__ = ["change_of", "merge_patch"]


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396. What does not change is shared with ``target``."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def _json_patch(obj: Object, patch: Any) -> Object:
    if not isinstance(patch, list):
        raise ApiError(400, Reason.BAD_REQUEST, f"{describe(obj)}: a JSON patch is a list of operations (RFC 6902)")
    try:
        return jsonpatch.apply_patch(obj, patch)  # type: ignore[no-any-return]
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
        raise ApiError(422, Reason.INVALID, f"{describe(obj)}: the JSON patch does not apply: {error}") from None


def change_of(patch: Any, patch_type: PatchType) -> Callable[[Object], Object]:
    """The change that a patch stands for, as ``Registry.patch`` takes it."""

    def change(obj: Object) -> Object:
        if patch_type == "json":
            return _json_patch(obj, patch)
        if not isinstance(patch, dict):
            raise ApiError(400, Reason.BAD_REQUEST, f"{describe(obj)}: a {patch_type} patch is an object")
        if patch_type == "strategic":
            return strategic_merge(obj, patch)
        return merge_patch(obj, patch)  # type: ignore[no-any-return]

    return change
