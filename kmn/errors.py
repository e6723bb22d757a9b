"""Errors meant for the person at the keyboard: one line that says what is wrong and what would be right."""

from __future__ import annotations

__all__ = ["NameInUse", "NotRunning", "UserError"]


class UserError(Exception):
    """Shown without a traceback. ``hint`` is a second line: what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class NameInUse(UserError):
    """A cluster of this name is running already."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"cluster {name}: the name is in use by a running cluster",
            f"kmn down {name} ends it; kmn up --name OTHER starts another one beside it",
        )


class NotRunning(UserError):
    """No such cluster."""
