"""
Translate the regular expressions of other servers to RE2, and simple ones to patterns of names.

A client's name may begin with a slash or not, and other servers tell the two apart.  castd does not: its names have no
leading slash (L{castd.files.names}).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from castd.files import regex
from castd.files.mapping import escape
from castd.files.names import Rewrite
from castd.migrate.draft import Draft, Options, Place

#: A pattern that can match a leading slash, or asks that there is none.
_LEADING_SLASH = re.compile(r"[(^]*(?:/|\\/|\[\^[^\]]*/|\[/)")
#: One token of an extended regular expression of POSIX.
_ERE = re.compile(r"\\(.)|\[(\^?)(\]?(?:\[[:.=].*?[:.=]\]|[^\]])*)\]|(.)", re.DOTALL)
#: What glibc knows behind a backslash, beside characters that stand for themselves.
_GLIBC = {"<": r"\b", ">": r"\b", "b": r"\b", "B": r"\B", "w": r"\w", "W": r"\W", "s": r"\s", "S": r"\S"}
#: A reference to a group, or a backslash before any other character, in a replacement of POSIX.
_REFERENCE = re.compile(r"\\(.)", re.DOTALL)
#: A reference in a replacement of PCRE2.
_DOLLAR = re.compile(r"\$(?:(\$)|(\d+)|\{(\w+)\}|([A-Za-z_]\w*))")
_LITERAL = re.compile(r"(?:[^][\\^$.|?*+(){}]|\\[^\w])+")


def isRule(options: Options, place: Place, draft: Draft) -> bool:
    """
    Return whether a rule can be carried over; where RE2 is not installed no rule can, which is noted once.

    @param options: those of one rule of C{rewrite}.
    @raise ValueError: RE2 cannot have its expression, or the replacement is wrong.
    """
    if regex.isInstalled():
        Rewrite.compile(str(options["from"]), str(options["to"]))
        return True
    draft.loseOnce(
        place,
        "this rule and all others that change names, as their library google-re2 is not installed",
        "pip install 'castd[rewrite]', and import once more",
    )
    return False


def tellsSlash(pattern: str) -> bool:
    """Return whether a pattern tells a name with a leading slash from one without."""
    return _LEADING_SLASH.match(pattern) is not None


def fromPosix(pattern: str) -> str:
    """
    Return an extended regular expression of POSIX, as glibc reads it, for RE2.

    @raise ValueError: RE2 cannot have it.
    """
    return "".join(_posixToken(token) for token in _ERE.finditer(pattern))


def _posixToken(token: re.Match[str]) -> str:
    escaped, without, members, plain = token.groups()
    if escaped is not None:
        if escaped.isdigit():
            raise ValueError("it refers back to what a group has matched")
        return _GLIBC.get(escaped) or (escaped if escaped.isalnum() else "\\" + escaped)
    if members is not None:
        # A backslash in brackets is one.
        return f"[{without}{_bracket(members)}]"
    return str(plain)


def _bracket(members: str) -> str:
    """Escape what is special to RE2 between brackets, and not to POSIX; classes such as [:digit:] stay."""
    parts = re.split(r"(\[:\w+:\])", members)
    return "".join(part if at % 2 else re.sub(r"([\\\[\]])", r"\\\1", part) for at, part in enumerate(parts))


def literal(text: str) -> str:
    """Return a text as the replacement that stands for it."""
    return escape(text.replace("\\", "\\\\"))


def group(reference: str, following: str) -> str:
    """Return a reference to a group, by number or name, before what follows it in a replacement."""
    plain = reference.isdigit() and len(reference) == 1 and not following[:1].isdigit()
    return f"\\{reference}" if plain else f"\\g<{reference}>"


def posixReplacement(text: str) -> Iterator[str]:
    """
    Yield the parts of a replacement of tftpd-hpa's.

    @raise ValueError: it has a part that a replacement of castd cannot have.
    """
    at = 0
    for found in _REFERENCE.finditer(text):
        yield literal(text[at : found.start()])
        at = found.end()
        letter = found[1]
        if letter in "LUE":
            raise ValueError("it changes letters to upper or lower case")
        if letter == "x":
            raise ValueError("it has the address of the client in hexadecimal digits")
        if letter == "i":
            yield "{ip}"
        else:
            yield group(letter, text[at:]) if letter.isdigit() else literal(letter)
    yield literal(text[at:])


def pcreReplacement(text: str) -> str:
    """
    Return a replacement of PCRE2, C{$1}, C{${1}} or C{$name}, as castd writes it.

    @raise ValueError: it has a reference without an end.
    """
    if "${" in _DOLLAR.sub("", text):
        raise ValueError("it has a reference without an end")
    parts, at = list[str](), 0
    for found in _DOLLAR.finditer(text):
        parts.append(literal(text[at : found.start()]))
        at = found.end()
        dollar, number, braced, name = found.groups()
        parts.append("$" if dollar else group(number or braced or name, text[at:]))
    return "".join([*parts, literal(text[at:])])


def withoutLeadingSlash(pattern: str) -> str:
    """Let a pattern that begins with a slash match a name without it as well."""
    found = re.match(r"([(^]*\^[(^]*)(\\?/)(?![?*{])", pattern)
    if found is None:
        return pattern
    return f"{found[1]}{found[2]}?{pattern[found.end() :]}"


def asNames(pattern: str) -> list[str] | None:
    """
    Return patterns of names that match what a regular expression matches; L{None}: there are none.

    Only expressions are read that are a text, with or without anchors: C{^secret/}, C{\\.key$}.
    """
    start, end = pattern.startswith("^"), pattern.endswith("$") and not pattern.endswith("\\$")
    body = pattern[start : len(pattern) - end]
    if _LITERAL.fullmatch(body) is None:
        return None
    text = re.sub(r"\\(.)", r"\1", body)
    if start:
        text = text.lstrip("/")
    if not text or any(each in text for each in "*?["):
        return None
    return list(_namePatterns(text, start, end))


def _namePatterns(text: str, start: bool, end: bool) -> Iterator[str]:
    if start and end:
        yield f"/{text}"
    elif start:
        if text.endswith("/"):
            yield f"/{text}**"
        else:
            yield f"/{text}*"
            yield f"/{text}*/**"
    elif end:
        beginning = "" if text.startswith("/") else "*"
        inner = text.lstrip("/")
        yield f"**/{beginning}{inner}" if "/" in inner else f"{beginning}{inner}"
    elif "/" not in text:
        yield f"*{text}*"
        yield f"**/*{text}*/**"
    else:
        yield from _anywhere(text)


def _anywhere(text: str) -> Iterator[str]:
    """Patterns for names with this text, which has a slash, in any place."""
    inner = text.strip("/")
    left = "" if text.startswith("/") else "*"
    right = "" if text.endswith("/") else "*"
    yield f"**/{left}{inner}{right}/**"
    if right:
        yield f"**/{left}{inner}{right}"
