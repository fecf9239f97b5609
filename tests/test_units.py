"""Durations, sizes and rates: what is read, what is refused, and that the one is the inverse of the other."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castd import units

READ = [
    (units.duration, "200 ms", 0.2),
    (units.duration, "200ms", 0.2),
    (units.duration, "1 s", 1.0),
    (units.duration, "2 min", 120.0),
    (units.duration, "1.5 h", 5400.0),
    (units.duration, "1 d", 86400.0),
    (units.duration, "250 us", 0.00025),
    (units.duration, "3", 3.0),
    (units.duration, "0", 0.0),
    (units.duration, 0.25, 0.25),
    (units.duration, 1e-7, 1e-7),
    (units.size, "1468", 1468),
    (units.size, "64 KiB", 65536),
    (units.size, "64 kB", 64000),
    (units.size, "1.5 MB", 1_500_000),
    (units.size, "100 MB", 100_000_000),
    (units.size, "2 TiB", 2 << 40),
    (units.size, 512, 512),
    (units.rate, "20 MB/s", 20e6),
    (units.rate, "100 Mbit/s", 12.5e6),
    (units.rate, "1 KiB/s", 1024.0),
    (units.rate, "1 bit/s", 0.125),
    (units.rate, 1000, 1000.0),
    (units.frequency, "50/s", 50.0),
    (units.frequency, "30/min", 0.5),
    (units.frequency, "50 /s", 50.0),
    (units.frequency, 4.5, 4.5),
]

REFUSED = [
    (units.duration, "12:30", "not a duration: write it as 200 ms, 1 s or 2 min"),
    (units.duration, "", "not a duration"),
    (units.duration, "s", "not a duration"),
    (units.duration, "-1 s", "not a duration"),
    (units.duration, "1e3", "not a duration"),
    (units.duration, "5 S", "the unit is s, not S"),
    (units.duration, "30m", "the unit is ms or min, not m"),
    (units.size, "1 M", "the unit is MB or MiB, not M"),
    (units.duration, "5 m", "not a duration"),
    (units.duration, "no", "not a duration"),
    (units.duration, "٣ s", "not a duration"),
    (units.duration, "9" * 400, "not a duration"),
    (units.duration, math.inf, "not a duration"),
    (units.duration, math.nan, "not a duration"),
    (units.duration, True, "not a duration"),
    (units.duration, -1, "not a duration"),
    (units.duration, None, "not a duration"),
    (units.size, "0.5", "not a whole number of octets"),
    (units.size, "64 KB", "the unit is kB or KiB, not KB"),
    (units.size, "64 mb", "the unit is MB or MiB, not mb"),
    (units.size, "64 KiB/s", "not a size"),
    (units.rate, "20", "not a rate: write it as 20 MB/s or 100 Mbit/s"),
    (units.rate, "20 MB", "not a rate"),
    (units.rate, "20 mbit/s", "the unit is Mbit/s, not mbit/s"),
    (units.rate, "0 MB/s", "must be more than 0"),
    (units.rate, 0, "must be more than 0"),
    (units.frequency, "50", "not a frequency: write it as 50/s or 10/min"),
    (units.frequency, "0/s", "must be more than 0"),
]

READERS = [units.duration, units.size, units.rate, units.frequency]


@pytest.mark.parametrize(("read", "text", "value"), READ)
def test_read(read: Callable[[object], float], text: object, value: float) -> None:
    """Each way to write an amount has one meaning, exactly."""
    assert read(text) == value


@pytest.mark.parametrize(("read", "text", "complaint"), REFUSED)
def test_refused(read: Callable[[object], float], text: object, complaint: str) -> None:
    """What is not clear is refused with what would be right."""
    with pytest.raises(ValueError, match="not a") as raised:
        read(text)
    assert complaint in str(raised.value)


@given(read=st.sampled_from(READERS), text=st.one_of(st.text(), st.from_regex(r"[0-9.]{1,25} ?[a-zA-Z/]{0,8}")))
def test_anyText(read: Callable[[str], float], text: str) -> None:
    """Any text is a finite value, not negative, or a complaint: nothing else is raised."""
    try:
        value = read(text)
    except ValueError:
        return
    assert math.isfinite(value)
    assert value >= 0


FLOATS = st.floats(min_value=1e-6, max_value=1e12)


@given(FLOATS)
def test_durationsBothWays(seconds: float) -> None:
    """What is written as a duration is read as the same number of seconds."""
    assert units.duration(units.showDuration(seconds)) == seconds


@given(st.integers(min_value=0, max_value=1 << 60))
def test_sizesBothWays(octets: int) -> None:
    """What is written as a size is read as the same number of octets."""
    assert units.size(units.showSize(octets)) == octets


@given(FLOATS)
def test_ratesBothWays(octets: float) -> None:
    """What is written as a rate is read as the same number of octets a second."""
    assert units.rate(units.showRate(octets)) == octets


@given(FLOATS)
def test_frequenciesBothWays(times: float) -> None:
    """What is written as a frequency is read as the same number of times a second."""
    assert units.frequency(units.showFrequency(times)) == times


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (units.showDuration(0.2), "200 ms"),
        (units.showDuration(120), "2 min"),
        (units.showDuration(0), "0 s"),
        (units.showSize(32 << 20), "32 MiB"),
        (units.showSize(1468), "1468 B"),
        (units.showRate(12.5e6), "12500 kB/s"),
        (units.showFrequency(50.0), "50/s"),
    ],
)
def test_shown(written: str, expected: str) -> None:
    """An amount is written in the largest unit that leaves a whole number."""
    assert written == expected


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("007", 7),
        ("255", 255),
        ("256", None),
        ("0255", None),
        ("", None),
        ("-1", None),
        ("+1", None),
        (" 1", None),
        ("1.0", None),
        ("0x1", None),
        ("\u0663", None),
        ("\u00b2", None),
        ("9" * 5000, None),
    ],
)
def test_wholeNumber(text: str, number: int | None) -> None:
    """A number of another program is read in plain digits up to a limit; anything else is none, and raises nothing."""
    assert units.wholeNumber(text, 255) == number
