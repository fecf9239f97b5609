"""
Put what is known of a machine in the place of words in braces, such as C{{mac}}, in texts of the service file.

C{{{} and C{}}} stand for a brace itself.  A word whose value is not known makes the whole text unknown.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import NamedTuple, TypeAlias

#: Each word, with the longest value that it stands for.
LONGEST_VALUES: Mapping[str, str] = {
    "ip": "2001-db8-1234-5678-9abc-def0-1234-5678",
    "mac": "52-54-00-66-00-10",
    "uuid": "00112233-4455-6677-8899-aabbccddeeff",
    "arch": "efi-loongarch64",
    "date": "2026-11-26",
    "time": "21-24-00",
}
#: Words whose values have to be found out; the others are in each request.
FOUND_OUT = frozenset({"mac", "uuid", "arch"})
#: Patterns of names that the values of these words fit, none longer than the word in braces; those of others fit C{*}.
_SHAPES: Mapping[str, str] = dict.fromkeys(("mac", "uuid", "date", "time"), "*-*-*")
#: What a value may be: it is always a part of one name, and never C{.} or C{..}.
_VALUE = re.compile(r"[0-9A-Za-z](?:[0-9A-Za-z.-]{0,62}[0-9A-Za-z])?", re.ASCII)

_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class Word(NamedTuple):
    """
    One word in braces.

    @ivar name: one of L{LONGEST_VALUES}.
    """

    name: str


#: A text, cut at its words.
Pieces: TypeAlias = tuple[str | Word, ...]


def parse(text: str, known: Collection[str] = LONGEST_VALUES.keys()) -> Pieces:
    """
    Cut a text at its words.

    @param known: the words that may stand in it.
    @raise ValueError: a word is not known, or a brace stands alone; the message says what would be right.
    """
    return tuple(_pieces(text, known))


def _pieces(text: str, known: Collection[str]) -> Iterator[str | Word]:
    at, literal = 0, ""
    for found in _BRACES.finditer(text):
        literal += text[at : found.start()]
        at = found.end()
        if found[0] in ("{{", "}}"):
            literal += found[0][0]
            continue
        if found[1] is None:
            raise ValueError(f"a {found[0]} stands alone: write {2 * found[0]} for the character itself")
        if found[1] not in known:
            raise ValueError(f"{found[0]} is unknown: {_hint(found[1], known)}")
        if literal:
            yield literal
        yield Word(found[1])
        literal = ""
    if literal + text[at:]:
        yield literal + text[at:]


def _hint(word: str, known: Collection[str]) -> str:
    near = get_close_matches(word.strip().lower(), known, n=1, cutoff=0.6)
    listed = ", ".join(f"{{{each}}}" for each in known)
    meant = f"did you mean {{{near[0]}}}?" if near else f"known are {listed};"
    return f"{meant} a brace itself is written {{{{ or }}}}"


def wordsOf(pieces: Pieces) -> frozenset[str]:
    """Return the words in a text."""
    return frozenset(each.name for each in pieces if isinstance(each, Word))


def fill(pieces: Pieces, values: Mapping[str, str]) -> str | None:
    """
    Put values in the place of the words.

    @return: L{None}: a value is not known, or is nothing that can be a part of a name.
    """
    if len(pieces) == 1 and isinstance(pieces[0], str):
        return pieces[0]
    filled = ""
    for each in pieces:
        if isinstance(each, str):
            filled += each
        elif (value := valueOf(each, values)) is not None:
            filled += value
        else:
            return None
    return filled


def shapeOf(pieces: Pieces) -> str:
    """
    Put patterns of names in the place of the words in a pattern.

    @return: a pattern of all names that the pattern fits with any values of its words, and of some others.
    """
    if not wordsOf(pieces):
        return fill(pieces, {}) or ""
    if any("[" in each for each in pieces if isinstance(each, str)):
        return "**"  # a word may stand among the characters of a set
    return "".join(each if isinstance(each, str) else _SHAPES.get(each.name, "*") for each in pieces)


def valueOf(word: Word, values: Mapping[str, str]) -> str | None:
    """Return the value of a word, as L{fill}."""
    value = values.get(word.name)
    return value if value is not None and _VALUE.fullmatch(value) else None
