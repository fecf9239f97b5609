"""
Reads a number of seconds on the command line.
"""

from __future__ import annotations

import math

import click


class SecondsRange(click.FloatRange):
    """A number of seconds within bounds.  C{nan}, which lies neither below nor above any bound, is refused."""

    def convert(self, value: float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """As L{click.ParamType.convert}."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return seconds
