"""How often the training side saw each key: files beside a checkpoint that its sidecar names, one a table.

"frequencies": {"customer": "customer.npz"}      keys int64[n], counts (any number type) [n]
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from penstock.pipeline.core.errors import Corrupt, InvalidInput, NotFound
from penstock.slicer.sidecar import find_sidecar, read_sidecar

from .traffic import Counted


def read_frequencies(checkpoint: Path) -> dict[str, Counted]:
    """By table. `NotFound`: no sidecar, or a file that it names is not there; `Corrupt`: not such a file."""
    sidecar, place = read_sidecar(checkpoint), find_sidecar(checkpoint)
    if sidecar is None or place is None:
        raise NotFound(f"{checkpoint}: no sidecar beside it")
    return {table: _read(place.parent, name) for table, name in sidecar.frequencies.items()}


def _read(folder: Path, name: str) -> Counted:
    if Path(name).name != name:
        raise InvalidInput(f"frequencies in {name!r}: need the name of a file beside the sidecar")
    try:
        with np.load(folder / name, allow_pickle=False) as file:
            keys, counts = file["keys"], file["counts"]
    except FileNotFoundError:
        raise NotFound(f"{folder / name}: the sidecar names it, and it is not there") from None
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise Corrupt(f"{folder / name}: not an npz file of keys and counts: {error}") from None
    if keys.dtype != np.int64 or keys.ndim != 1 or counts.shape != keys.shape or counts.dtype.kind not in "iuf":
        raise Corrupt(
            f"{folder / name}: keys {keys.dtype}{list(keys.shape)}, counts {counts.dtype}{list(counts.shape)}; need [n] each"
        )
    counts = counts.astype(np.float64)
    if not np.isfinite(counts).all() or (counts < 0).any():
        raise Corrupt(f"{folder / name}: a count is negative, or not finite")
    unique, first = np.unique(keys, return_index=True)
    if unique.size != keys.size:
        raise Corrupt(f"{folder / name}: a key stands there twice")
    return Counted(unique, counts[first])
