"""Writes what Keras saves as HDF5, in each of its layouts, with h5py alone: after keras/src/legacy/saving/legacy_h5_format.py and
keras/src/saving/saving_lib.py, for files that Keras would and would never write."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Layers = Mapping[str, Mapping[str, np.ndarray]]
"""Weights by layer and name."""
ATTRIBUTE_BYTES = 64512
"""Keras splits lists of names that are larger."""


def list_names(group: h5py.Group, attribute: str, names: list[str], *, limit: int = ATTRIBUTE_BYTES) -> None:
    """As texts of one length, the way it was before h5py 3, in as many attributes as it takes."""
    texts = np.array([name.encode() for name in names])
    parts = 1
    while any(part.nbytes > limit for part in np.array_split(texts, parts)):
        parts += 1
    if parts == 1:
        group.attrs[attribute] = texts
    for number, part in enumerate(np.array_split(texts, parts) if parts > 1 else []):
        group.attrs[f"{attribute}{number}"] = part


def fill_group(group: h5py.Group, layers: Layers, *, limit: int = ATTRIBUTE_BYTES) -> None:
    """The layout of Keras 1 and 2."""
    list_names(group, "layer_names", list(layers), limit=limit)
    for layer, weights in layers.items():
        inner = group.create_group(layer)
        list_names(inner, "weight_names", list(weights), limit=limit)
        for name, values in weights.items():
            inner[name] = values


def write_weights(path: Path, layers: Layers, *, limit: int = ATTRIBUTE_BYTES, **options: Any) -> None:
    """`model.save_weights("….h5")` of Keras 1 and 2."""
    with h5py.File(path, "w", **options) as file:
        fill_group(file, layers, limit=limit)


def write_model(path: Path, layers: Layers, optimizer: Mapping[str, np.ndarray]) -> None:
    """`model.save("….h5")` of Keras 2."""
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = "{}"
        fill_group(file.create_group("model_weights"), layers)
        group = file.create_group("optimizer_weights")
        list_names(group, "weight_names", list(optimizer))
        for name, values in optimizer.items():
            group[name] = values


def fill_keras3(file: h5py.File, layers: Mapping[str, list[np.ndarray]], optimizer: list[np.ndarray]) -> None:
    """The layout of Keras 3; two-byte voids stand for bfloat16, as ml_dtypes has it."""
    groups = {f"layers/{name}/vars": values for name, values in layers.items()} | {"optimizer/vars": optimizer}
    file.create_group("vars")
    for path, values in groups.items():
        group = file.create_group(path)
        for number, each in enumerate(values):
            dataset = group.create_dataset(str(number), data=each)
            if each.dtype.kind == "V":
                dataset.attrs["dtype"] = "bfloat16"


def write_keras_zip(path: Path, layers: Mapping[str, list[np.ndarray]], optimizer: list[np.ndarray], *, method: int = 0) -> None:
    """`model.save("….keras")` of Keras 3."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        fill_keras3(file, layers, optimizer)
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.10.0"}')
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", buffer.getvalue())
