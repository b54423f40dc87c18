"""Checkpoint readers: every format behind one protocol, without the framework that wrote it and without running its code."""

from .checkpoint import Checkpoint, Role, TensorInfo
from .elements import storage_dtype, widened
from .formats import open_checkpoint

__all__ = ["Checkpoint", "Role", "TensorInfo", "open_checkpoint", "storage_dtype", "widened"]
