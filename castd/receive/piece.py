"""
Blocks that come in any order.
"""

from __future__ import annotations

from typing import NamedTuple


class OffsetBlock(NamedTuple):
    """Octets that belong at an offset: how collectors hand out blocks that come in any order."""

    offset: int
    payload: bytes
