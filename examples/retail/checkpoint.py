"""The trainer's checkpoint as a safetensors file, and back.

    customer/keys    int64[n]          the same for product, country, hour
    customer/rows    float32[n, 16]
    dense/NAME       float32           for each parameter of the model
    optimizer/...    float32           accumulators: customer [n], dense/NAME; may be missing
    __metadata__     steps, trained_through (microseconds of event time); where they are missing, as in what `penstock export`
                     writes, the sidecar beside the file has them

It knows the file's layout and nothing of training or delivery.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from penstock.pipeline.core.errors import Corrupt, NotFound
from penstock.pipeline.core.times import NEVER, EventTime
from penstock.slicer.sidecar import read_sidecar

from .model import DENSE_SHAPES, TABLES
from .trainer import TableState, TrainerState

Tensor = NDArray[np.int64] | NDArray[np.float32]


def write_checkpoint(path: Path, state: TrainerState) -> None:
    """Writes beside `path` first, then renames: the file is whole or not there."""
    tensors: dict[str, Tensor] = {f"dense/{name}": values for name, values in state.dense.items()}
    for name, table in state.tables.items():
        tensors[f"{name}/keys"], tensors[f"{name}/rows"] = table.keys, table.rows
        if table.accumulators is not None:
            tensors[f"optimizer/{name}"] = table.accumulators
    for name, values in (state.dense_accumulators or {}).items():
        tensors[f"optimizer/dense/{name}"] = values
    whole = path.with_name(path.name + ".partial")
    save_file(tensors, whole, metadata={"steps": str(state.steps), "trained_through": str(state.trained_through)})
    whole.replace(path)


def read_checkpoint(path: Path) -> TrainerState:
    """Errors: `NotFound`; `Corrupt` names the tensor that is missing."""
    if not path.is_file():
        raise NotFound(f"{path}: no such checkpoint")
    try:
        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or _by_sidecar(path)
    except SafetensorError as error:
        raise Corrupt(f"{path.name}: not a safetensors file: {error}") from None
    try:
        return _state(tensors, metadata)
    except KeyError as missing:
        raise Corrupt(f"{path.name}: no {missing} in this checkpoint") from None
    except ValueError as error:
        raise Corrupt(f"{path.name}: {error}") from None


def _by_sidecar(path: Path) -> dict[str, str]:
    sidecar = read_sidecar(path)
    if sidecar is None:
        return {}
    through = sidecar.through()
    return {"steps": str(sidecar.step), "trained_through": str(NEVER if through is None else through)}


def _state(tensors: Mapping[str, NDArray[np.generic]], metadata: Mapping[str, str]) -> TrainerState:
    def floats(name: str) -> NDArray[np.float32]:
        return tensors[name].astype(np.float32)

    tables = {
        table: TableState(
            keys=tensors[f"{table}/keys"].astype(np.int64), rows=floats(f"{table}/rows"),
            accumulators=floats(f"optimizer/{table}") if f"optimizer/{table}" in tensors else None,
        )
        for table in TABLES
    }  # fmt: skip
    kept = f"optimizer/dense/{next(iter(DENSE_SHAPES))}" in tensors
    return TrainerState(
        steps=int(metadata["steps"]), trained_through=EventTime(int(metadata["trained_through"])), tables=tables,
        dense={name: floats(f"dense/{name}") for name in DENSE_SHAPES},
        dense_accumulators={name: floats(f"optimizer/dense/{name}") for name in DENSE_SHAPES} if kept else None,
    )  # fmt: skip
