"""Defines what castd has to show beside its peers of the same run, and judges whether it did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

AT_LEAST, AT_MOST = "≥", "≤"
#: Decimals that a figure of each unit is shown with.
_DIGITS = {"×": 2, "µs": 2, "MiB": 0, "s": 2, "million/s": 1, "wire": 3, "": 0}


@dataclass(frozen=True)
class Mark:
    """
    One bound.

    @ivar measure: what is compared: C{throughput} or C{cost}, castd's divided by that of C{against}; C{cpu},
        microseconds of the processor for one unit of the work; C{memory}, MiB; C{repeats}, requests that were sent
        again; C{failures}; C{wire}, octets on the wire for one of the file; C{seconds}, beyond those of C{against} and
        the time in which castd lets others join; C{packets}, millions a second.
    @ivar bound: for castd in pure Python; C{native}: with its native loop, the same if L{None}.
    @ivar against: the name of a server; C{best-c} or C{best-python}, the fastest of this kind; C{every}, each peer, the
        fastest one decides; empty where castd's figure stands alone.
    """

    measure: str
    bound: float
    native: float | None = None
    against: str = ""

    @property
    def sense(self) -> str:
        """Whether more or less is better."""
        return AT_LEAST if self.measure in ("throughput", "packets") else AT_MOST

    @property
    def unit(self) -> str:
        """What the figure counts."""
        units = {"throughput": "×", "cost": "×", "cpu": "µs", "memory": "MiB", "seconds": "s", "wire": "wire"}
        return units.get(self.measure, "million/s" if self.measure == "packets" else "")

    def show(self, value: float) -> str:
        """@return: a value of this measure."""
        number = f"{value:.{_DIGITS[self.unit]}f}"
        return number if self.unit in ("×", "wire", "") else f"{number} {self.unit}"

    def describe(self, native: bool = False) -> str:
        """@return: the bound in words."""
        bound = self.boundOf(native)
        if self.measure == "throughput":
            return f"≥ {bound:g} × {_PEERS.get(self.against, self.against)}"
        if self.measure == "seconds":
            return f"≤ {self.against} + the gathering" + (f" + {bound:g} s" if bound else "")
        if self.measure == "cost":
            return f"CPU ≤ {bound:g} × {self.against}"
        if self.measure in ("repeats", "failures"):
            return _NONE[self.measure] if bound == 0 else f"{self.measure} ≤ {bound:g}"
        words = {"cpu": "CPU µs a unit", "memory": "anonymous memory", "packets": "packets"}
        tail = {"memory": " MiB", "packets": " million/s"}.get(self.measure, "")
        return f"{words.get(self.measure, 'octets on the wire / file')} {self.sense} {bound:g}{tail}"

    def boundOf(self, native: bool) -> float:
        """@return: the bound for one of the two ways in which castd runs."""
        return self.native if native and self.native is not None else self.bound


_PEERS = {"best-c": "the best C server", "best-python": "the best Python server", "every": "every peer"}
_NONE = {"repeats": "no request asked twice", "failures": "no failed transfer"}


@dataclass(frozen=True)
class Verdict:
    """
    What became of a mark.

    @ivar value: what was measured; L{None}: the run had nothing to compare with.
    """

    mark: Mark
    native: bool
    value: float | None

    @property
    def met(self) -> bool:
        """Whether the mark was reached."""
        bound = self.mark.boundOf(self.native)
        if self.value is None:
            return False
        return self.value >= bound if self.mark.sense == AT_LEAST else self.value <= bound

    @property
    def margin(self) -> float | None:
        """By which part of the bound the value is better (positive) or worse; L{None} where the bound is 0."""
        bound = self.mark.boundOf(self.native)
        if self.value is None or bound == 0:
            return None
        over = self.value / bound - 1
        return over if self.mark.sense == AT_LEAST else -over

    def show(self) -> str:
        """@return: the value, and C{met} or C{missed} with the distance."""
        if self.value is None:
            return "not measured"
        told = f"{self.mark.show(self.value)}, {'met' if self.met else '**missed**'}"
        return told if self.margin is None else f"{told} by {abs(self.margin):.0%}"


#: What a mark is judged by: measure and peer, to the value; L{None} where the run has none.
Measured = Callable[[str, str], float | None]


def judge(mark: Mark, measured: Measured, native: bool = False) -> Verdict:
    """
    @return: the verdict about one mark.
    """
    return Verdict(mark, native, measured(mark.measure, mark.against))
