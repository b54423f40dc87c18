"""Checkpoint readers: every format behind one protocol, without the framework that wrote it and without running its code."""

from .checkpoint import Checkpoint, Role, TensorInfo
from .formats import open_checkpoint
from .tensors.elements import storage_dtype, widened

__all__ = ["Checkpoint", "Role", "TensorInfo", "open_checkpoint", "storage_dtype", "widened"]
