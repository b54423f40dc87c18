"""Lookups of 150,000 keys among 100 million rows of 32 floats, kept as float32 where there is memory for it, else as int8."""

from __future__ import annotations

import os

import numpy as np

from .figures import Figure
from .looking_up import Asking, against_gather
from .served import keys_of, new_table, parts

ROWS, PART = 100_000_000, 1 << 22
FLOAT32_BYTES = 20 << 30
"""What a table of float32 takes, and what is to be left beside it."""


def run() -> list[Figure]:
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    name = "float32" if available >= FLOAT32_BYTES else "int8"
    table = new_table(name=name)
    table.reserve(ROWS)
    for low in range(0, ROWS, PART):
        for part, rows in parts(keys_of(np.arange(low, min(low + PART, ROWS))), name=name):
            table.load(part, rows)
    found = [figure for law in ("zipf", "uniform") for figure in against_gather(Asking(table, ROWS, law))]
    value = table.nbytes / table.row_count
    ratio = value / (table.width + 16)
    memory = Figure(f"memory a row of {table.width} bytes", value, "bytes", "and 8 key + 8 slot", ratio, "ratio <= 2")
    return [*(in_large(figure, name) for figure in found), memory]


def in_large(figure: Figure, name: str) -> Figure:
    return Figure(f"{name}, {figure.name}", figure.value, figure.unit, figure.peer, figure.ratio, figure.target)
