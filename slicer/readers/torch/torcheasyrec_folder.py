"""A checkpoint of TorchEasyRec: a folder of what torch and dynamicemb write.

    model/         a distributed checkpoint; tensors keep their names
    optimizer/     a distributed checkpoint; `optimizer/` before every name. Where there is an optimizer
    dynamicemb/    a dump with a folder for each module, see `dynamicemb_dumps`. Where there are such tables
    plan           how the tables were cut: not read

(`tzrec/utils/checkpoint_util.py`.) Its deltas are files of their own: see `torcheasyrec_delta`.
"""

from __future__ import annotations

from os.path import isfile
from pathlib import Path

from ..checkpoint import TensorSource
from ..dumps.dynamicemb_dumps import dynamicemb_sources, is_dynamicemb
from ..files.mapped_file import MappedFile
from ..stored_checkpoint import StoredCheckpoint
from .torch_distributed import distributed_sources, is_torch_distributed

_MODEL, _OPTIMIZER, _DYNAMIC, _PLAN = "model", "optimizer", "dynamicemb", "plan"


def is_torcheasyrec(path: Path, head: bytes) -> bool:
    """`model/` alone could be anybody's."""
    return is_torch_distributed(path / _MODEL, b"") and (
        isfile(path / _PLAN) or is_torch_distributed(path / _OPTIMIZER, b"") or is_dynamicemb(path / _DYNAMIC, b"")
    )


def open_torcheasyrec(path: Path) -> StoredCheckpoint:
    """Errors as of `open_torch_distributed` and `open_dynamicemb`: the save of each part has to be complete."""
    sources: list[TensorSource] = []
    files: list[MappedFile] = []
    try:
        _add(distributed_sources(path / _MODEL), sources, files)
        if (path / _OPTIMIZER).is_dir():
            _add(distributed_sources(path / _OPTIMIZER, prefix=f"{_OPTIMIZER}/"), sources, files)
        _add(dynamicemb_sources(path / _DYNAMIC), sources, files)
        return StoredCheckpoint("torcheasyrec", sources, files)
    except BaseException:
        for file in files:
            file.close()
        raise


def _add(found: tuple[list[TensorSource], list[MappedFile]], sources: list[TensorSource], files: list[MappedFile]) -> None:
    sources += found[0]
    files += found[1]
