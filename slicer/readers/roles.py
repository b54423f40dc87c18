"""What a tensor is for, guessed from its name, shape and dtype: a proposal for people, never acted on by a publish."""

from __future__ import annotations

import re

from .checkpoint import Role
from .tensors.elements import is_float

_OPTIMIZER = re.compile(
    r"(^|[./_])(optim(izers?)?|optimizer_states?|exp_avg(_sq)?|max_exp_avg_sq|momentum\d*(_buffer)?|adagrad|adam|rmsprop|ftrl"
    r"|adadelta|adamax|adamw|adamasync|adagraddecay(v2)?|nadam|lamb|beta[12]_power)([./_-]|$)|\.OPTIMIZER_SLOT",
    re.IGNORECASE,
)
_EMBEDDING = re.compile(r"embed|(?<![a-z])emb(?![a-z])|(?<![a-z])tables?(?![a-z])", re.IGNORECASE)
_MANY_ROWS = 1000
_TALL = 8


def role_of(name: str, shape: tuple[int, ...], dtype: str) -> Role:
    """Optimizer state by name; else a float matrix that is called an embedding or has many more rows than columns; else any
    float is dense, and what is left is other."""
    if _OPTIMIZER.search(name):
        return "optimizer"
    if not is_float(dtype):
        return "other"
    if len(shape) == 2:
        rows, columns = shape
        if _EMBEDDING.search(name) or (rows >= _MANY_ROWS and rows >= _TALL * columns):
            return "embedding"
    return "dense"
