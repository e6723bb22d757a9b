"""Regular expressions of users: which of them Envoy takes, whose engine is RE2.

Objects have them in the dialect of their controller (Perl's, for the most part). RE2 knows no look-around, no
references back, and nothing else that cannot be matched in linear time; one bad expression would make Envoy refuse
all routes together.
"""

from __future__ import annotations

import re
import warnings
from functools import lru_cache

__all__ = ["LARGEST", "at_start", "checked", "found_in", "groups_of"]

_FOREIGN = re.compile(
    r"""(?<!\\)(?:\\\\)*(?:
        \(\?(?![:imsU)-]|P<)<?.? # look-around, conditions, comments, atomic groups
      | [*+?}]\+                 # possessive
      | \\[1-9gkKGZXRNHVhuU]     # references back, and what only Perl or Python has
    )""",
    re.VERBOSE,
)
_FLAGS = re.compile(r"(?<!\\)((?:\\\\)*)\(\?[imsU-]+\)")
_MOST = 1000  # repetitions, of one in another all together
LARGEST = (
    32_768  # instructions of RE2's program: Envoy's limit, as Istio sets it; its own default of 100 is for few words
)

_TOKEN = re.compile(
    r"""(?P<class>\[\^?\]?(?:\\.|\[:\^?\w*:\]|[^\]\\])*\])
      | (?P<open>\((?:\?[^:)]*[:>]|\?[imsU-]+(?=\)))?)
      | (?P<close>\))
      | \{(?P<least>\d+)(?P<comma>,(?P<most>\d*))?\}
      | (?P<other>\\.|.)""",
    re.VERBOSE | re.DOTALL,
)
# In a class: what it has names of, which Python does not know, and a backspace, which RE2 does not.
_NAMED = "alnum|alpha|ascii|blank|cntrl|digit|graph|lower|print|punct|space|upper|word|xdigit"
_IN_CLASS = re.compile(rf"\[:(?!\^?(?:{_NAMED}):\])|(?<!\\)(?:\\\\)*\\[bB]")
_NOT_ASCII_ESCAPED = re.compile(r"(?<!\\)(?:\\\\)*\\[^\x00-\x7f]")
_PLAIN_CLASS = re.compile(r"\[[A-Za-z0-9_./%~-]+\]")  # of ASCII
_LITERAL, _ANY, _WIDE_CLASS = 4, 16, 64  # instructions at most: bytes of UTF-8, and the other case's


@lru_cache(maxsize=4096)
def checked(pattern: str) -> str:
    """The same. Raises ValueError, saying what is wrong, for one that RE2 does not take."""
    if not pattern:
        raise ValueError("an expression is needed: it is empty")
    if foreign := _FOREIGN.search(pattern):
        raise ValueError(f'"{foreign.group()}": no look-around, references back or possessive repetition (RE2)')
    if odd := _NOT_ASCII_ESCAPED.search(pattern):
        raise ValueError(f'"{odd.group()}": no backslash before what is not ASCII (RE2)')
    if len(pattern) > LARGEST:
        raise ValueError(f"it has {len(pattern)} characters: too many for RE2")
    try:
        _compiled(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if (size := _size(pattern)) > LARGEST:
        raise ValueError(f"it may have {size} instructions, with all repetitions: {LARGEST} are allowed (RE2)")
    return pattern


def _size(pattern: str) -> int:
    """How many instructions RE2 may need at most, of a pattern that Python takes. Raises ValueError for repetitions
    and classes that RE2 does not have."""
    groups: list[list[tuple[int, int]]] = [[]]  # of each that is open: sizes of its parts, and repetitions in them
    for token in _TOKEN.finditer(pattern):
        parts = groups[-1]
        if token["open"] is not None:
            groups.append([])
        elif token["close"] is not None:
            inner = groups.pop() if len(groups) > 1 else []
            groups[-1].append((2 + sum(size for size, _ in inner), max((times for _, times in inner), default=1)))
        elif token["least"] is not None and parts:
            size, times = parts.pop()
            most = int(token["most"] or token["least"])
            times *= max(most, 1)
            if times > _MOST:
                raise ValueError(f"{token.group()}: no more than {_MOST} repetitions (RE2)")
            parts.append(((size + 1) * (most + 1), times))
        elif token["class"] is not None:
            if named := _IN_CLASS.search(token.group()[1:]):
                raise ValueError(f'"{token.group()}": {named.group()} is unknown within brackets (RE2)')
            plain = _PLAIN_CLASS.fullmatch(token.group())
            parts.append((len(token.group()) if plain else _WIDE_CLASS + 2 * _LITERAL * len(token.group()), 1))
        else:
            text = token.group()
            parts.append((_ANY if text == "." or (text[0] == "\\" and text[1:].isalpha()) else _LITERAL, 1))
    return sum(size for group in groups for size, _ in group)


def groups_of(pattern: str) -> int:
    """How many groups capture something."""
    return _compiled(pattern).groups


def _compiled(pattern: str) -> re.Pattern[str]:
    """By Python, which has flags at the beginning only; they change no group."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of [[:alpha:]], which is a class to RE2
        return re.compile(_FLAGS.sub(r"\1", pattern))


def at_start(pattern: str) -> str:
    """One that matches all of a text that begins with a match: with the same groups."""
    return f"(?:{pattern}).*"


def found_in(pattern: str) -> str:
    """One that matches all of a text with a match anywhere."""
    return f".*(?:{pattern}).*"
