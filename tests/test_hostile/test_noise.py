"""
Random, mutated and replayed datagrams against every kind of port, while honest clients of every transport are served.
"""

from __future__ import annotations

import tracemalloc

import pytest

from tests.test_hostile.ground import PORTS, standing
from tests.test_hostile.hunts import Hunt, emptied, rounds

pytestmark = pytest.mark.fuzz


@pytest.mark.parametrize("kind", PORTS)
def test_noise(kind: str) -> None:
    """
    No traceback, no table above its limit, no memory that grows from round to round, and every honest client of every
    transport has its file in the end.
    """
    sizes: list[int] = []
    tracemalloc.start()
    try:
        for seed, datagrams in rounds():
            with standing(seed) as ground:
                hunt = Hunt(ground, kind)
                hunt.run(datagrams)
                hunt.finish()
            del ground, hunt
            emptied()
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    # The first round fills what is kept for all; after it there is nothing to keep.
    assert max(sizes) < sizes[0] + 200_000, sizes
