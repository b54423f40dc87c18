"""Checkpoints of one large table, as PyTorch and TensorFlow write them, by the writers of the tests. In a process of its own, for
these hold a checkpoint in memory: `python -m bench.checkpoint_files KIND TABLE FOLDER`."""

from __future__ import annotations

import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np

from .tables import DIM

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

TENSOR = "table"
RANKS = 4
_ALIGNED = 64
_LOCAL_HEADER, _ZIP64 = 30, 20


def write_pt(table: Path, folder: Path) -> None:
    """As `torch.save` does: one storage, its bytes aligned."""
    from torch_pickles import mapping, storage, tensor

    rows = table.stat().st_size // (4 * DIM)
    body = mapping({TENSOR: tensor(storage("FloatStorage", "0", rows * DIM), 0, (rows, DIM), (DIM, 1))})
    with zipfile.ZipFile(folder / "model.pt", "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02" + body + b".")
        archive.writestr("model/byteorder", b"little")
        member = zipfile.ZipInfo("model/data/0")
        begins = archive.start_dir + _LOCAL_HEADER + len(member.filename) + _ZIP64 + 4
        padding = -begins % _ALIGNED
        member.extra = struct.pack("<2sH", b"FB", padding) + bytes(padding)
        with archive.open(member, "w", force_zip64=True) as out, table.open("rb") as rows_of:
            while part := rows_of.read(1 << 24):
                out.write(part)


def write_distributed(table: Path, folder: Path) -> None:
    """As `torch.distributed.checkpoint` does: rows sharded over ranks."""
    from torch_files import DistributedFolder

    values = np.memmap(table, np.float32, "r").reshape(-1, DIM)
    bounds = [len(values) * rank // RANKS for rank in range(RANKS + 1)]
    boxes = [((low, 0), (high - low, DIM)) for low, high in pairwise(bounds)]
    written = DistributedFolder(folder / "dcp")
    written.chunks(TENSOR, values, boxes, ranks=RANKS)
    written.write()


def write_tensorflow(table: Path, folder: Path) -> None:
    from tensorflow_files import write_bundle

    write_bundle(folder / "model.ckpt", {TENSOR: np.memmap(table, np.float32, "r").reshape(-1, DIM)})


WRITERS: Mapping[str, tuple[Callable[[Path, Path], None], str]] = {
    "PyTorch .pt": (write_pt, "model.pt"),
    "PyTorch DCP, 4 ranks": (write_distributed, "dcp"),
    "TensorFlow bundle": (write_tensorflow, "model.ckpt.index"),
}
"""How each kind is written, and what it is called in its folder."""


if __name__ == "__main__":
    WRITERS[sys.argv[1]][0](Path(sys.argv[2]), Path(sys.argv[3]))
