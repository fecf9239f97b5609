"""
Parse the names that clients ask for into parts; rewrite them, match them against patterns, and show them in logs.

A name is that of a L{castd.request.Request}: UTF-8 with surrogate escapes, so that the octets on the wire are also the
octets on disk.  Its I{parts} are between the slashes: never empty, never C{.} or C{..}, without control octets.  Files
are opened by parts only; no whole name of a client is ever passed to the file system.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TypeAlias

from castd.errors import NO_NAME, Forbidden, NotFound, Refused, Unsupported
from castd.files.regex import LinearRegex, Match, linearRegex
from castd.machines.words import Word, parse, valueOf

#: The parts of a name, from the root downwards.
Parts: TypeAlias = tuple[bytes, ...]
#: Called with each step by which a name is changed: the key of the service file that asks for it, and the new name.
Seen: TypeAlias = Callable[[str, str], object]

#: Octets of the longest part (the limit of Linux file systems) and of the longest name.
LARGEST_PART = 255
LARGEST_NAME = 1024
#: Octets of the longest name that rules are tried on.
_LARGEST_REWRITTEN = 8 * LARGEST_NAME

_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")


@lru_cache(1024)
def parts(name: str) -> Parts:
    """
    Parse a name.  C{\\} counts as C{/}, for Windows clients; doubled and leading slashes and C{.} are dropped.

    @raise Unsupported: the name is empty.
    @raise Forbidden: the name has control octets or C{..}, or is nothing but slashes.
    @raise NotFound: the name is longer than any file's name can be.
    """
    found = split(name)
    if any(map(_CONTROL.search, found)):
        raise Forbidden(why="control octets in the name")
    if not found or b".." in found:
        raise Forbidden(why="the name leads out of the root" if found else "the name is the root itself")
    if sum(map(len, found)) + len(found) - 1 > LARGEST_NAME or max(map(len, found)) > LARGEST_PART:
        raise NotFound(why="the name is too long")
    return found


# Profiles, rules and directories ask for the same name one after the other.
@lru_cache(64)
def split(name: str) -> Parts:
    """
    Split a name at its slashes, as L{parts}, but judge nothing: what comes back may be rewritten, and never opened.

    @return: parts that may be C{..}, may have control octets, and may be too long; C{()}: there is nothing but slashes.
    @raise Unsupported: the name is empty.
    @raise NotFound: the name is far longer than any file's name can be.
    """
    octets = _octets(name).partition(b"\0")[0]
    if not octets:
        raise Unsupported("No file name", NO_NAME)
    if len(octets) > _LARGEST_REWRITTEN:
        raise NotFound(why="the name is too long")
    return tuple(part for part in octets.replace(b"\\", b"/").split(b"/") if part and part != b".")


def beforeControl(name: str) -> str:
    """Return a name as far as its first control octet: some clients send octets behind a name that are not meant."""
    found = _CONTROL.search(_octets(name))
    return name if found is None else _octets(name)[: found.start()].decode("utf-8", "surrogateescape")


def _octets(name: str) -> bytes:
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise NotFound(why="the name is not made of octets") from None


def prefix(name: str) -> Parts:
    """
    Parse a leading directory from the service file; C{()} for the empty text and for C{/}.

    @raise ValueError: no name can begin with it.
    """
    if not name.strip("/"):
        return ()
    try:
        return parts(name)
    except Refused as refusal:
        raise ValueError(f"{printable(name)} cannot be the beginning of a name: {refusal}") from None


def text(found: Parts) -> str:
    """Return the name that L{parts} parses into these parts."""
    return b"/".join(found).decode("utf-8", "surrogateescape")


def plain(name: str) -> str:
    """
    Return a name as patterns and rules see it: with single slashes, and none at the beginning.

    @return: C{""} for a name that L{split} refuses.
    """
    try:
        return text(split(name))
    except Refused:
        return ""


def printable(name: str) -> str:
    """
    Make a name (or any text of a client) safe for a log and a terminal: unprintable characters are shown as C{\\xNN},
    octet by octet.

    Those are control characters, octets that are not UTF-8, unusual blanks, and marks that change the direction of
    text.
    """
    return name if name.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in name)


def _escaped(character: str) -> str:
    # A lone surrogate stands for the octet that could not be decoded.
    code = ord(character)
    octets = bytes([code - 0xDC00]) if 0xDC80 <= code <= 0xDCFF else character.encode("utf-8", "surrogatepass")
    return "".join(f"\\x{octet:02x}" for octet in octets)


#: A reference to a group in a replacement, or a backslash.
_REFERENCE = re.compile(rb"\\(?:([0-9]{1,2})|g<([A-Za-z0-9_]{1,64})>|(\\))")


@dataclass(frozen=True, slots=True)
class Rewrite:
    """
    Changes names by one rule: a regular expression, and the replacement of its match (C{\\1} is the first group).

    The expression is matched by RE2, in a time that grows with the length of the name: an engine that backtracks would
    let a client choose a name for which it takes hours (docs/decisions/patterns.md).

    @ivar pattern: searched for anywhere in the name, which is written with single slashes and without a leading one; by
        octets where the name is not UTF-8.
    @ivar to: the replacement: octets, numbers of groups, and words whose values are known of a machine.
    @ivar every: replace every match in the name, not just the first.
    @ivar end: if it matches, the rules behind it are not applied.
    """

    pattern: LinearRegex
    to: tuple[bytes | int | Word, ...]
    every: bool = False
    end: bool = False

    @classmethod
    def compile(cls, pattern: str, to: str, every: bool = False, end: bool = False) -> Rewrite:
        """
        Compile a rule.

        @param to: the replacement, with words of L{castd.machines.words}.
        @raise ValueError: the pattern or the replacement is wrong, with the reason.
        """
        try:
            compiled = linearRegex(pattern.encode("utf-8", "surrogateescape"))
            return cls(compiled, tuple(_template(to, compiled)), every, end)
        except ValueError as error:
            raise ValueError(f"{pattern!r} to {to!r}: {error}") from None

    def __call__(self, name: str, values: Mapping[str, str] | None = None) -> str:
        """
        Return the name after this rule.

        @raise NotFound: as L{apply}.
        """
        return self.apply(name, values or {})[0]

    def apply(self, name: str, values: Mapping[str, str]) -> tuple[str, bool]:
        """
        Apply the rule.

        @param values: the values of words.
        @return: the name after this rule, and whether the rule has matched.
        @raise NotFound: it has matched, and the value of a word in the replacement is not known.
        """
        replacement = partial(self._replacement, values)
        changed, count = self.pattern.subn(replacement, _octets(name), 0 if self.every else 1)
        return changed.decode("utf-8", "surrogateescape"), count > 0

    def _replacement(self, values: Mapping[str, str], match: Match) -> bytes:
        return b"".join(_replaced(each, match, values) for each in self.to)

    @property
    def words(self) -> frozenset[str]:
        """The words in the replacement."""
        return frozenset(each.name for each in self.to if isinstance(each, Word))


def _replaced(piece: bytes | int | Word, match: Match, values: Mapping[str, str]) -> bytes:
    if isinstance(piece, bytes):
        return piece
    if isinstance(piece, int):
        return match[piece] or b""
    value = valueOf(piece, values)
    if value is None:
        raise NotFound(why=f"{piece.name} is not known of this machine")
    return value.encode("ascii")


def _template(to: str, compiled: LinearRegex) -> Iterator[bytes | int | Word]:
    """
    Split a replacement at its words and its references to groups.

    @raise ValueError: there is no such word or group, or a backslash is none of these references.
    """
    for piece in parse(to):
        if isinstance(piece, Word):
            yield piece
        else:
            yield from _references(piece.encode("utf-8", "surrogateescape"), compiled)


def _references(replacement: bytes, compiled: LinearRegex) -> Iterator[bytes | int]:
    at = 0
    for found in _REFERENCE.finditer(replacement):
        yield _literal(replacement[at : found.start()])
        number, name, _ = found.groups()
        yield b"\\" if number is name is None else _group(number or name, compiled)
        at = found.end()
    yield _literal(replacement[at:])


def _group(reference: bytes, compiled: LinearRegex) -> int:
    """Return the number of a group.  @raise ValueError: there is no such group."""
    number = int(reference) if reference.isdigit() else compiled.groupindex.get(reference, -1)
    if not 0 <= number <= compiled.groups:
        raise ValueError(f"there is no group {reference.decode()}")
    return number


def _literal(octets: bytes) -> bytes:
    if b"\\" in octets:
        raise ValueError("a backslash stands before a group, as in \\1 or \\g<name>, or before another backslash")
    return octets


def rewrite(
    found: Parts, rules: Iterable[Rewrite], values: Mapping[str, str] | None = None, seen: Seen | None = None
) -> Parts:
    """
    Apply the rules in order, each to the result of the one before, until one that matches is the last (C{end}).

    @param found: of L{parts} or L{split}.
    @param values: the values of words in the replacements.
    @param seen: called with C{rewrite[0]} and the name after this rule, for each rule.
    @raise Forbidden: as L{parts}, which parses the result: no rule can lead out of the root.
    @raise NotFound: the result is empty or too long, or the value of a word is not known.
    """
    name = text(found)
    for number, rule in enumerate(rules):
        name, matched = rule.apply(name, values or {})
        if seen is not None:
            seen(f"rewrite[{number}]", name)
        if matched and rule.end:
            break
    if not name:
        raise (
            NotFound(why="the rules leave nothing of the name")
            if found
            else Forbidden(why="the name is the root itself")
        )
    return parts(name)


def strip(found: Parts, prefixes: Sequence[Parts]) -> Parts:
    """Drop the first of the prefixes that the name begins with; a name that equals the prefix stays."""
    for prefix in prefixes:
        if len(found) > len(prefix) and found[: len(prefix)] == prefix:
            return found[len(prefix) :]
    return found


def beneath(found: Parts, prefix: Parts) -> Parts:
    """
    Return the rest of the name below a prefix.

    @raise NotFound: the name does not begin with the prefix.
    """
    if len(found) > len(prefix) and found[: len(prefix)] == prefix:
        return found[len(prefix) :]
    raise NotFound()


#: Characters of the longest pattern: it is read in the square of them.
_LONGEST_PATTERN = 4096


class Patterns:
    """
    Matches names against shell-style patterns: C{name in patterns} is true if one of them matches.

    C{?} matches one character, C{*} any number, C{[a-f]} and C{[!a-f]} one of a set, but none of them a slash; C{**} as
    a whole part matches any number of parts.  A pattern without a slash is matched against the last part, in any
    directory (C{*.efi}); one with a slash against the whole name (C{images/**}, C{/pxelinux.0}).  Case is ignored: a
    name that is forbidden in lower case must not be available in upper case from a root that ignores case.

    @ivar match: the same as C{in}, by a call less: it returns L{None} if no pattern matches the name.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = tuple(patterns)
        self.match = re.compile("|".join(map(_toRegex, self.patterns)) or r"(?!)", re.IGNORECASE | re.DOTALL).fullmatch

    def __contains__(self, name: str) -> bool:
        return self.match(name) is not None


def _toRegex(pattern: str) -> str:
    """
    Translate a pattern.

    Each star is matched once: what follows it, up to the next one, is looked for from the left, and where it was found
    is never changed again (C{(?>...)}).  That finds a match if there is one, since an earlier place leaves more for the
    rest.  With plain C{.*} the time would be the length of the name to the power of the number of stars.

    @raise ValueError: it is no pattern of a name.
    """
    if len(pattern) > _LONGEST_PATTERN:
        raise ValueError(f"a pattern of {len(pattern)} characters is longer than any name needs")
    steps = pattern.removeprefix("/").split("/")
    if "" in steps:
        hint = f", did you mean {pattern}**?" if pattern.strip("/") and pattern.endswith("/") else ""
        raise ValueError(f"{pattern!r} is no pattern of a name{hint}")
    if "/" not in pattern:
        steps.insert(0, "**")
    # The directories between two C{**}, and the last part.
    runs: list[str] = [""]
    for step in steps[:-1]:
        if step == "**":
            runs.append("")
        else:
            runs[-1] += f"(?>{_glob(step)}/)"
    first, *between = runs
    last = ".+" if steps[-1] == "**" else _glob(steps[-1])
    if not between:
        return first + last
    *middle, end = between
    lead = "".join(f"(?>(?:[^/]+/)*?{run})" for run in middle if run)
    return f"{first}{lead}(?:[^/]+/)*{end}{last}"


_GLOB = re.compile(r"\*+|\?|\[(!?)(\]?[^\]]*)\]|.", re.DOTALL)


def _glob(part: str) -> str:
    """Translate the pattern of one part of a name; the last star has to leave what follows it for the end."""
    chunks = [""]
    for token in _GLOB.finditer(part):
        if token[0].startswith("*"):
            chunks.append("")
        else:
            chunks[-1] += _globToken(token)
    first, *rest = chunks
    if not rest:
        return first
    *middle, end = rest
    return first + "".join(f"(?>[^/]*?{chunk})" for chunk in middle) + "[^/]*" + end


def _globToken(token: re.Match[str]) -> str:
    """Translate what matches one character."""
    if token[0] == "?":
        return "[^/]"
    if token[2] is not None:
        return _characterClass(bool(token[1]), token[2])
    return re.escape(token[0])


def _characterClass(without: bool, members: str) -> str:
    """Match one character out of (or not out of) C{a-fx}, but never a slash."""
    # Two hyphens in a row are no range, and may mean something else in a later Python.
    body = re.sub(r"([\\\[\]^&~|]|-(?=-)|(?<=-)-)", r"\\\1", members)
    choice = f"(?!/)[{'^' if without else ''}{body}]"
    try:
        re.compile(choice)
    except re.error as error:
        raise ValueError(f"[{members}]: {error}") from None
    return choice
