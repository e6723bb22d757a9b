"""Regular expressions of users: which of them Envoy takes, whose engine is RE2.

Objects have them in the dialect of their controller (Perl's, for the most part). RE2 knows no look-around, no
references back, and nothing else that cannot be matched in linear time; one bad expression would make Envoy refuse
all routes together.
"""

from __future__ import annotations

import re

__all__ = ["at_start", "checked", "found_in", "groups_of"]

_FOREIGN = re.compile(
    r"""(?<!\\)(?:\\\\)*(?:
        \(\?(?![:imsU)-]|P<)<?.? # look-around, conditions, comments, atomic groups
      | [*+?}]\+                 # possessive
      | \\[1-9gkKGZXRNHVhu]      # references back, and what only Perl or Python has
    )""",
    re.VERBOSE,
)
_FLAGS = re.compile(r"\(\?[imsU-]+\)")
_MANY = re.compile(r"\{(\d+)(?:,(\d*))?\}")
_MOST = 1000  # repetitions


def checked(pattern: str) -> str:
    """The same. Raises ValueError, saying what is wrong, for one that RE2 does not take."""
    if foreign := _FOREIGN.search(pattern):
        raise ValueError(f'"{foreign.group()}": no look-around, references back or possessive repetition (RE2)')
    try:
        _compiled(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from None
    for found in _MANY.finditer(pattern):
        if any(int(number) > _MOST for number in found.groups() if number):
            raise ValueError(f"{found.group()}: no more than {_MOST} repetitions (RE2)")
    return pattern


def groups_of(pattern: str) -> int:
    """How many groups capture something."""
    return _compiled(pattern).groups


def _compiled(pattern: str) -> re.Pattern[str]:
    """By Python, which has flags at the beginning only; they change no group."""
    return re.compile(_FLAGS.sub("", pattern))


def at_start(pattern: str) -> str:
    """One that matches all of a text that begins with a match: with the same groups."""
    return f"(?:{pattern}).*"


def found_in(pattern: str) -> str:
    """One that matches all of a text with a match anywhere."""
    return f".*(?:{pattern}).*"
