"""Annotations of Traefik: their names, and their values as what they are."""

from __future__ import annotations

from collections.abc import Iterable

from kmn.ingress.model import Owner, Problem
from kmn.k8s import objects
from kmn.k8s.objects import Object

__all__ = ["PREFIX", "Notes", "is_true"]

PREFIX = "traefik.ingress.kubernetes.io/"
# What these say is nothing for packets.
_HARMLESS = ("router.observability.", "router.rulesyntax")


class Notes:
    """The annotations of one object. What is wrong is told in ``problems``, those of an Ingress: ``owner``."""

    def __init__(self, obj: Object, owner: Owner, what: str = "") -> None:
        self.owner = owner
        self._values = {
            name.removeprefix(PREFIX): value
            for name, value in objects.annotations(obj).items()
            if name.startswith(PREFIX)
        }
        self._what = what
        self.problems: list[Problem] = []

    def text(self, name: str, *, among: Iterable[str] = ()) -> str | None:
        """``among``: what it may be."""
        value = self._values.get(name)
        known = tuple(among)
        if value is None or not known or value in known:
            return value
        self.wrong(name, f'"{value}" should be {" or ".join(known)}')
        return None

    def words(self, name: str) -> tuple[str, ...]:
        """Those between commas."""
        return tuple(filter(None, (word.strip() for word in (self._values.get(name) or "").split(","))))

    def number(self, name: str) -> int | None:
        value = self._values.get(name)
        if value is None:
            return None
        try:
            return int(value)
        except ValueError:
            self.wrong(name, f'"{value}" should be a whole number')
            return None

    def flag(self, name: str) -> bool:
        """False without it."""
        return is_true(self.text(name, among=("true", "false")))

    def has(self, name: str) -> bool:
        return name in self._values

    def unknown(self, known: Iterable[str]) -> None:
        """Tell of those that are none of these."""
        for name in sorted(self._values.keys() - set(known)):
            if not name.startswith(_HARMLESS):
                self.ignored(name, "is not emulated: it has no effect")

    def wrong(self, name: str, message: str) -> None:
        """Tell of a value that cannot be used: it is as if it were not there."""
        self.tell("Rejected", f"annotation {PREFIX}{name}: {message}")

    def ignored(self, name: str, message: str) -> None:
        """Tell of what is not emulated."""
        self.tell("NotEmulated", f"annotation {PREFIX}{name} {message}")

    def tell(self, reason: str, message: str) -> None:
        """A problem of the Ingress."""
        self.problems.append(Problem(self.owner, reason, f"{self.owner}: {self._what}{message}"))


def is_true(value: str | None) -> bool:
    return value == "true"
