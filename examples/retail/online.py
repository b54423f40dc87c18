"""The online trainer together with its delivery: whatever it learns goes out in all three tiers.

It knows when something is delivered, and nothing of who receives it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from penstock.pipeline.core.errors import Fenced
from penstock.pipeline.core.manifest import Manifest
from penstock.publishers import Delivery
from penstock.slicer.sidecar import sidecar_path

from .checkpoint import write_checkpoint
from .model import Floats
from .stream import Batch
from .trainer import OnlineTrainer, Step

PUBLISHER = "trainer-0"
DENSE_EVERY = 4
"""Batches from one dense slice to the next."""
DENSE_PREFIX = "dense/"
HEEDLESS_PAUSE_S = 0.02


class DeliveringTrainer:
    """`folder` is where its checkpoints go. `delivered_dense`: the newest slice that was put, its tensors as
    the checkpoint names them."""

    def __init__(self, trainer: OnlineTrainer, delivery: Delivery, folder: Path) -> None:
        self.trainer, self.delivery, self._folder = trainer, delivery, folder
        self.delivered_dense: dict[str, Floats] = {}

    def learn(self, batch: Batch) -> Step:
        """Learns, and puts every row that it touched. Errors as `Updates.put`: `Fenced` once the model was rolled back."""
        step = self.trainer.learn(batch)
        updates = self.delivery.updates()
        for table, keys in step.touched.items():
            updates.put(table, keys, self.trainer.rows(table, keys), trained_through=step.trained_through)
        if step.number % DENSE_EVERY == 0:
            self.put_dense()
        return step

    def put_dense(self) -> None:
        self.delivered_dense = {DENSE_PREFIX + name: values for name, values in self.trainer.dense.items()}
        self.delivery.updates().put_dense(self.delivered_dense, trained_through=self.trainer.trained_through)

    def publish_snapshot(self) -> Manifest:
        """The trainer's whole state, before it has put a single row."""
        path = self._folder / f"step_{self.trainer.steps}.safetensors"
        write_checkpoint(path, self.trainer.state())
        return self.delivery.publish_snapshot(path, trained_through=self.trainer.trained_through)

    def publish_delta(self) -> Manifest:
        """Marks and writes a checkpoint, and publishes what it changed."""
        self.put_dense()
        path = self._folder / f"step_{self.trainer.steps}.safetensors"
        sidecar = self.delivery.updates().mark(step=self.trainer.steps)
        write_checkpoint(path, self.trainer.state())
        sidecar_path(path).write_bytes(sidecar.encode())
        return self.delivery.publish_delta(path)

    def learn_heedlessly(self, batches: Sequence[Batch], stopped: threading.Event) -> Fenced | None:
        """Goes on with `batches`, over and over, until it is told that the model was rolled back; returns what it was told. None
        when it was stopped before."""
        for batch in cycle(batches):
            try:
                self.learn(batch)
            except Fenced as told:
                return told
            if stopped.wait(HEEDLESS_PAUSE_S):
                break
        return None
