"""A small DLRM (Naumov et al., arXiv:1906.00091) in numpy: what it predicts from rows, and the gradients of its loss.

    time of day and week ──bottom MLP──┐
    one row of each table ─────────────┴─ dot products of every pair ──top MLP── probability of a purchase

Pure functions of arrays. Where rows come from it does not know: the trainer's own tables and a replica's answers give the
same prediction for the same values. Everything is float32, but the functions keep whatever float type they are given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .keys import Keys, fraction, scattered
from .stream import HOUR_US

Floats = NDArray[np.float32]
DIM = 16
TABLES = ("customer", "product", "country", "hour")
CONTEXT = 4
_HIDDEN = 32
_BLOCK = 256
_VECTORS = 1 + len(TABLES)
_FIRST, _SECOND = np.triu_indices(_VECTORS, 1)
DENSE_SHAPES = {
    "bottom.0.weight": (CONTEXT, _HIDDEN), "bottom.0.bias": (_HIDDEN,),
    "bottom.1.weight": (_HIDDEN, DIM), "bottom.1.bias": (DIM,),
    "top.0.weight": (DIM + _FIRST.size, _HIDDEN), "top.0.bias": (_HIDDEN,),
    "top.1.weight": (_HIDDEN, 1), "top.1.bias": (1,),
}  # fmt: skip
"""The dense part: weights are (inputs, outputs)."""


@dataclass(frozen=True, slots=True)
class Gradients:
    """Of the loss summed over n examples. `rows`: float32[n, 16] by table, one line an example; `dense`: as the parameters.
    `loss` is the mean binary cross-entropy in nats."""

    loss: float
    rows: dict[str, Floats]
    dense: dict[str, Floats]


def initial_dense(seed: int) -> dict[str, Floats]:
    """He-uniform weights, zero biases."""
    generator = np.random.default_rng(seed)
    return {
        name: generator.uniform(-1, 1, shape).astype(np.float32) * np.float32((6 / shape[0]) ** 0.5)
        if name.endswith("weight")
        else np.zeros(shape, np.float32)
        for name, shape in DENSE_SHAPES.items()
    }


def initial_rows(keys: Keys) -> Floats:
    """int64[n] keys -> float32[n, 16], uniform in ±1/4, a function of the key alone: whoever first sees a key, and whenever,
    gives it the same row."""
    cells = np.add.outer(scattered(keys.astype(np.uint64)), np.arange(DIM, dtype=np.uint64))
    return (fraction(scattered(cells)) - np.float32(0.5)) * np.float32(0.5)


def time_context(at: Keys) -> Floats:
    """int64[n] microseconds -> float32[n, 4]: sine and cosine of the time of day and of the week."""
    turns = np.stack([at / (24 * HOUR_US), at / (7 * 24 * HOUR_US)], axis=1) * (2 * np.pi)
    return np.concatenate([np.sin(turns), np.cos(turns)], axis=1).astype(np.float32)


def _times(examples: Floats, weight: Floats) -> Floats:
    """[n, k] @ [k, m]. A block at a time: for larger products the BLAS starts threads, which on a machine that is busy with
    replicas wait for each other longer than they work, and which would make sums depend on the machine."""
    blocks = range(0, examples.shape[0], _BLOCK)
    return np.concatenate([examples[first : first + _BLOCK] @ weight for first in blocks])


def _summed(examples: Floats, by_output: Floats) -> Floats:
    """[n, k].T @ [n, m], a block at a time."""
    total = examples[:_BLOCK].T @ by_output[:_BLOCK]
    for first in range(_BLOCK, examples.shape[0], _BLOCK):
        total += examples[first : first + _BLOCK].T @ by_output[first : first + _BLOCK]
    return total


@dataclass(frozen=True, slots=True)
class _Pass:
    """What the backward pass needs of the forward pass."""

    hidden_bottom: Floats
    vectors: Floats
    inputs_top: Floats
    hidden_top: Floats
    logits: Floats


def _forward(rows: Mapping[str, Floats], context: Floats, dense: Mapping[str, Floats]) -> _Pass:
    hidden_bottom = np.maximum(_times(context, dense["bottom.0.weight"]) + dense["bottom.0.bias"], 0)
    bottom = _times(hidden_bottom, dense["bottom.1.weight"]) + dense["bottom.1.bias"]
    vectors = np.stack([bottom, *(rows[table] for table in TABLES)], axis=1)
    products = (vectors @ vectors.swapaxes(1, 2))[:, _FIRST, _SECOND]
    inputs_top = np.concatenate([bottom, products], axis=1)
    hidden_top = np.maximum(_times(inputs_top, dense["top.0.weight"]) + dense["top.0.bias"], 0)
    logits = (_times(hidden_top, dense["top.1.weight"]) + dense["top.1.bias"])[:, 0]
    return _Pass(hidden_bottom, vectors, inputs_top, hidden_top, logits)


def _sigmoid(logits: Floats) -> Floats:
    probability: Floats = np.where(logits < 0, np.exp(np.minimum(logits, 0)), 1) / (1 + np.exp(-np.abs(logits)))
    return probability


def score(rows: Mapping[str, Floats], context: Floats, dense: Mapping[str, Floats]) -> Floats:
    """The probability float32[n] that each of n examples is bought. `rows`: float32[n, 16] by table, zeros where a key has no
    row; `context`: float32[n, 4] of `time_context`; `dense`: as `DENSE_SHAPES` says."""
    return _sigmoid(_forward(rows, context, dense).logits)


def gradients(rows: Mapping[str, Floats], context: Floats, dense: Mapping[str, Floats], labels: Floats) -> Gradients:
    """Arguments as for `score`; `labels` float32[n], 1 where it was bought."""
    done = _forward(rows, context, dense)
    logits = done.logits
    loss = np.mean(np.maximum(logits, 0) - logits * labels + np.log1p(np.exp(-np.abs(logits))))
    by_logit: Floats = (_sigmoid(logits) - labels)[:, None]
    by_hidden_top: Floats = _times(by_logit, dense["top.1.weight"].T) * (done.hidden_top > 0)
    by_inputs_top: Floats = _times(by_hidden_top, dense["top.0.weight"].T)
    by_product: Floats = np.zeros((logits.size, _VECTORS, _VECTORS), by_inputs_top.dtype)
    by_product[:, _FIRST, _SECOND] = by_product[:, _SECOND, _FIRST] = by_inputs_top[:, DIM:]
    by_vectors: Floats = by_product @ done.vectors
    by_bottom: Floats = by_vectors[:, 0] + by_inputs_top[:, :DIM]
    by_hidden_bottom: Floats = _times(by_bottom, dense["bottom.1.weight"].T) * (done.hidden_bottom > 0)
    return Gradients(
        loss=float(loss),
        rows={table: by_vectors[:, place] for place, table in enumerate(TABLES, start=1)},
        dense={
            "bottom.0.weight": _summed(context, by_hidden_bottom), "bottom.0.bias": by_hidden_bottom.sum(0),
            "bottom.1.weight": _summed(done.hidden_bottom, by_bottom), "bottom.1.bias": by_bottom.sum(0),
            "top.0.weight": _summed(done.inputs_top, by_hidden_top), "top.0.bias": by_hidden_top.sum(0),
            "top.1.weight": _summed(done.hidden_top, by_logit), "top.1.bias": by_logit.sum(0),
        },
    )  # fmt: skip
