"""Real checkpoints of one model, as torch wrote them, and what torch read from them."""

from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "data" / "torch_dlrm_retail"


@pytest.fixture(scope="session")
def retail() -> Path:
    return DATA
