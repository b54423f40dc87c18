"""Every parser of bytes that others have written: the table that the runner and the tests work from."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from fuzz.framework_targets import FRAMEWORKS
from fuzz.input_targets import INPUTS
from fuzz.reader_targets import READERS
from fuzz.stored_targets import STORED
from fuzz.table_targets import TABLES
from fuzz.target import Target

from penstock.pipeline.core.errors import PenstockError

CHECKPOINTS = (*READERS, *FRAMEWORKS, *TABLES)
TARGETS = (*CHECKPOINTS, *INPUTS, *STORED)
BY_NAME = {each.name: each for each in TARGETS}


def warm_up(target: Target, folder: Path) -> None:
    """Runs what is right, of any format: bytes may be taken for any, and a kernel that has to be compiled first takes longer
    than an input may."""
    for each in (target, *CHECKPOINTS):
        for seed in each.seeds():
            with suppress(PenstockError):
                each.run(seed, folder)
