"""Memory for tables: zeroed, aligned, and really there once it is claimed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from penstock.pipeline.core.errors import StorageFull
from penstock.serving.memory import HUGE_PAGE, claim, zeroed

ROLLUP = Path("/proc/self/smaps_rollup")


def own_bytes() -> int:
    """Memory of this process that no other process and no page of zeros stands in for."""
    return next(int(line.split()[1]) << 10 for line in ROLLUP.read_text().splitlines() if line.startswith("Anonymous:"))


@pytest.mark.parametrize("count", [1, 1000, (HUGE_PAGE >> 3) - 1, HUGE_PAGE >> 3, 3 * HUGE_PAGE])
def test_arrays_are_zeros_and_aligned_where_they_fill_a_huge_page(count: int) -> None:
    found = zeroed(count, np.int64)
    assert found.shape == (count,)
    assert not found.any()
    assert found.nbytes < HUGE_PAGE or found.ctypes.data % HUGE_PAGE == 0
    found[-1] = 7
    claim(found)
    assert found.sum() == 7


@pytest.mark.skipif(not ROLLUP.exists(), reason="needs /proc")
def test_what_is_claimed_is_taken_even_if_it_was_read_before() -> None:
    found = zeroed(64 * HUGE_PAGE, np.uint8)
    assert found[::HUGE_PAGE].max() == 0
    before = own_bytes()
    claim(found)
    taken = own_bytes() - before
    # Where pages are small, one of each huge page's worth.
    assert taken >= 64 * 4096
    assert found.max() == 0


def test_what_the_system_refuses_is_told() -> None:
    with pytest.raises(StorageFull, match="MiB of rows"):
        zeroed(1 << 60, np.uint8)
