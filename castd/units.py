"""
Reads and writes durations, sizes, rates and frequencies as people write them.

Every function that reads what people write raises C{ValueError} with a sentence that says what would be right.
L{duration} reads the text that L{showDuration} writes; likewise for the other pairs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import TypeAlias

_Scale: TypeAlias = Mapping[str, Fraction | int]

_SECONDS: _Scale = {"us": Fraction(1, 10**6), "ms": Fraction(1, 1000), "s": 1, "min": 60, "h": 3600, "d": 86400}
# fmt: off
_OCTETS: _Scale = {
    "B": 1,
    "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
}
# fmt: on
_OCTETS_A_SECOND: _Scale = {
    **{f"{unit}/s": octets for unit, octets in _OCTETS.items()},
    **{f"{prefix}bit/s": Fraction(1000**power, 8) for power, prefix in enumerate(("", "k", "M", "G"))},
}
_A_SECOND: _Scale = {"/s": 1, "/min": Fraction(1, 60), "/h": Fraction(1, 3600)}

#: Digits, a fraction, a unit; bounded, so that no text makes a number of unbounded size.
_AMOUNT = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,40})?) ?([A-Za-z/]{0,8})", re.ASCII)


def wholeNumber(text: str, most: int) -> int | None:
    """
    Read a whole number that another program has written, in plain digits.

    @return: the number; L{None}: it is none, or more than C{most}.
    """
    if not (text.isascii() and text.isdecimal()) or len(text) > len(str(most)):
        return None
    return number if (number := int(text)) <= most else None


def duration(text: str | float) -> float:
    """
    Read a duration: C{200 ms}, C{1 s}, C{2 min}; a plain number is seconds.

    @return: seconds, finite and not negative.
    """
    return float(_read(text, _SECONDS, "s", "a duration", "200 ms, 1 s or 2 min"))


def size(text: str | int) -> int:
    """
    Read a size: C{100 MB} (of 1000), C{64 KiB} (of 1024); a plain number is octets.

    @return: octets; part of an octet is refused.
    """
    octets = _read(text, _OCTETS, "B", "a size", "1468, 64 KiB or 100 MB")
    if octets.denominator != 1:
        raise ValueError(f"{text} is not a whole number of octets")
    return int(octets)


def rate(text: str | float) -> float:
    """
    Read a rate of data: C{20 MB/s}, C{100 Mbit/s}.

    A number is octets a second, but text must name its unit, since octets and bits differ by a factor of eight.

    @return: octets a second, more than 0.
    """
    return _positive(text, _OCTETS_A_SECOND, "B/s", "a rate", "20 MB/s or 100 Mbit/s")


def frequency(text: str | float) -> float:
    """
    Read a frequency: C{50/s}, C{10/min}; text must name its unit, and a number is times a second.

    @return: times a second, more than 0.
    """
    return _positive(text, _A_SECOND, "/s", "a frequency", "50/s or 10/min")


def _positive(text: str | float, scale: _Scale, plain: str, kind: str, right: str) -> float:
    value = float(_read(text, scale, "" if isinstance(text, str) else plain, kind, right))
    if not value:
        raise ValueError(f"{text} is not {kind}: it must be more than 0")
    return value


def _read(text: object, scale: _Scale, plain: str, kind: str, right: str) -> Fraction:
    """
    Read an amount exactly.

    @param scale: the value of each unit.
    @param plain: the unit of a plain number; C{""}: a number must name its unit.
    @param kind: the name of the quantity, for the error's text.
    @param right: examples of right values, for the error's text.
    """
    number = _digits(text) if isinstance(text, int | float) and not isinstance(text, bool) else str(text)
    found = _AMOUNT.fullmatch(number.strip())
    if found is None or (found[2] or plain) not in scale:
        raise ValueError(f"{text} is not {kind}: write it as {right}" + _unitHint(found, scale))
    return Fraction(found[1]) * scale[found[2] or plain]


def _unitHint(found: re.Match[str] | None, scale: _Scale) -> str:
    """
    Return a hint at units that differ from the written one only by case or by an C{i}, or that it is the beginning of;
    C{""}: there are none.
    """
    if found is None:
        return ""
    wrong = found[2].lower().replace("i", "")
    plain = {unit: unit.lower().replace("i", "") for unit in scale} if wrong else {}
    near = [unit for unit in plain if plain[unit] == wrong] or [unit for unit in plain if unit.startswith(found[2])]
    return f" (the unit is {' or '.join(near)}, not {found[2]})" if near else ""


def _digits(number: float) -> str:
    """Return a number without an exponent, exactly as C{repr} has it."""
    return format(Decimal(repr(number)), "f")


def showDuration(seconds: float) -> str:
    """Write seconds so that L{duration} reads the same."""
    return _show(seconds, _SECONDS, "s")


def showSize(octets: float) -> str:
    """Write octets so that L{size} reads the same."""
    return _show(octets, _OCTETS, "B")


def showRate(octets: float) -> str:
    """Write octets a second so that L{rate} reads the same; in octets, since sizes of files are."""
    return _show(octets, {f"{unit}/s": worth for unit, worth in _OCTETS.items()}, "B/s")


def showFrequency(times: float) -> str:
    """Write times a second so that L{frequency} reads the same."""
    return _show(times, _A_SECOND, "/s").replace(" ", "")


def _show(value: float, scale: _Scale, plain: str) -> str:
    """Write a value in the largest unit that gives a whole number, or else in the plain unit."""
    exact = Fraction(Decimal(repr(value)))
    whole = [unit for unit, worth in scale.items() if exact and (exact / worth).denominator == 1]
    unit = max(whole, key=lambda unit: scale[unit], default=plain)
    return f"{exact / scale[unit]} {unit}" if whole else f"{_digits(value)} {unit}"
