"""Errors of the Kubernetes API, as the ``Status`` objects that clients receive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = ["AlreadyExists", "ApiError", "Conflict", "FieldError", "Invalid", "NotFound", "Reason"]


class Reason(StrEnum):
    """``status.reason`` values of the API conventions that kmn answers with."""

    ALREADY_EXISTS = "AlreadyExists"
    BAD_REQUEST = "BadRequest"
    CONFLICT = "Conflict"
    EXPIRED = "Expired"
    FORBIDDEN = "Forbidden"
    INTERNAL_ERROR = "InternalError"
    INVALID = "Invalid"
    METHOD_NOT_ALLOWED = "MethodNotAllowed"
    NOT_ACCEPTABLE = "NotAcceptable"
    NOT_FOUND = "NotFound"
    UNAUTHORIZED = "Unauthorized"
    UNSUPPORTED_MEDIA_TYPE = "UnsupportedMediaType"


class ApiError(Exception):
    """A request that the API refused: HTTP ``code``, machine-readable ``reason``, ``message`` for people."""

    def __init__(self, code: int, reason: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    def status(self) -> dict[str, Any]:
        """The ``Status`` object of the response body."""
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": str(self.reason),
            "code": self.code,
        }
        if self.details:
            body["details"] = self.details
        return body

    @classmethod
    def from_status(cls, body: dict[str, Any], code: int) -> ApiError:
        """The error that a ``Status`` body describes, as the most specific class."""
        reason = body.get("reason", "")
        message = body.get("message") or f"HTTP {code}"
        kinds = {"NotFound": NotFound, "AlreadyExists": AlreadyExists, "Conflict": Conflict, "Invalid": Invalid}
        kind: type[ApiError] = kinds.get(reason, cls)
        error = kind.__new__(kind)
        ApiError.__init__(error, body.get("code", code), reason, message, body.get("details"))
        return error


def _details(qualified: str, name: str) -> dict[str, Any]:
    plural, _, group = qualified.partition(".")
    return {"name": name, "kind": plural, **({"group": group} if group else {})}


class NotFound(ApiError):
    """404: ``pods "web" not found``. ``qualified`` is the resource as kubectl names it (``deployments.apps``)."""

    def __init__(self, qualified: str, name: str) -> None:
        super().__init__(404, Reason.NOT_FOUND, f'{qualified} "{name}" not found', _details(qualified, name))


class AlreadyExists(ApiError):
    """409 on create."""

    def __init__(self, qualified: str, name: str) -> None:
        super().__init__(409, Reason.ALREADY_EXISTS, f'{qualified} "{name}" already exists', _details(qualified, name))


class Conflict(ApiError):
    """409 on update: the object changed since it was read."""

    def __init__(self, qualified: str, name: str, why: str = "") -> None:
        why = why or "the object has been modified; please apply your changes to the latest version and try again"
        super().__init__(
            409, Reason.CONFLICT, f'Operation cannot be fulfilled on {qualified} "{name}": {why}',
            _details(qualified, name),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with one field: ``path`` as in ``spec.ports[1].name``, ``message`` says what would be right."""

    path: str
    message: str
    reason: str = "FieldValueInvalid"

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class Invalid(ApiError):
    """422: ``Service default/web: spec.ports[1].name: required when there is more than one port``."""

    def __init__(self, kind: str, name: str, errors: Sequence[FieldError]) -> None:
        self.errors = tuple(errors)
        text = "; ".join(str(e) for e in errors)
        causes = [{"reason": e.reason, "message": e.message, "field": e.path} for e in errors]
        super().__init__(422, Reason.INVALID, f"{kind} {name}: {text}", {"name": name, "kind": kind, "causes": causes})
