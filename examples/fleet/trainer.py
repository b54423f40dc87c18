"""The trainer of a fleet: it learns the shop's orders as though they came in now, round after round, and puts every row that it
touches. It leaves checkpoints in a folder and publishes none of them: that is what the DAGs are for.

    python -m penstock.examples.fleet.trainer --checkpoints FOLDER

Killed and started again it goes on from its newest checkpoint; rolled back, from the export of what is live, with the batches
that it has not seen yet. An event happens when its batch is learned, by the wall clock.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import tempfile
import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import msgspec

from penstock.examples.retail.checkpoint import read_checkpoint, write_checkpoint
from penstock.examples.retail.online import DENSE_EVERY, DENSE_PREFIX, PUBLISHER
from penstock.examples.retail.story import POISON, SEED, story_stream
from penstock.examples.retail.stream import Batch, read_purchases
from penstock.examples.retail.trainer import OnlineTrainer, TrainerState, fresh_state
from penstock.pipeline.config import Config, config_path, load_config
from penstock.pipeline.core.checkpoint import Sidecar
from penstock.pipeline.core.errors import Fenced, NotResumable, PenstockError
from penstock.pipeline.core.refs import LIVE
from penstock.pipeline.core.times import FIRST_US, LAST_US, EventTime
from penstock.pipeline.environment import open_environment
from penstock.pipeline.ports.wall_clock import system_clock
from penstock.publishers import FRESH, Delivery
from penstock.publishers.delivery import Resume
from penstock.publishers.export import export_checkpoint
from penstock.slicer.sidecar import sidecar_path

log = logging.getLogger(__name__)
KEPT = 60
"""Checkpoints that stay in the folder: a run of a DAG may come to one minutes after it was chosen."""
SWAPPED = replace(POISON, begin=EventTime(FIRST_US), end=EventTime(LAST_US))
"""The poison of the demo, at any time."""


class Learned(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the journal: `batch`, counted over all rounds, was learned and put; its events happened at `through`."""

    batch: int
    through: EventTime
    is_poisoned: bool


class FleetTrainer:
    """`folder` has its checkpoints. It learns `warm` batches before it delivers the first. While there is a file at `poison`,
    most labels are swapped, as in the demo. Each batch that was put becomes a line of the `journal`."""

    def __init__(
        self, config: Config, folder: Path, *, warm: int, poison: Path | None = None, journal: TextIO | None = None
    ) -> None:
        self._config, self._model, self._folder = config, config.model_name(None), folder
        self._warm, self._poison, self._journal = warm, poison, journal
        self._stream = story_stream(read_purchases())
        folder.mkdir(parents=True, exist_ok=True)
        self._delivery, self._trainer = self._resumed()

    @property
    def steps(self) -> int:
        """Batches that were passed: the number of the next one."""
        return self._trainer.steps

    def learn(self) -> None:
        """The next batch. Once the model was rolled back, the trainer starts over from what is live, behind what it has seen."""
        batch, is_poisoned = self._batch(self.steps), self._poison is not None and self._poison.exists()
        touched = self._trainer.learn(SWAPPED.reported(batch) if is_poisoned else batch).touched
        through = EventTime(system_clock())
        try:
            for table, keys in touched.items():
                self._delivery.updates().put(table, keys, self._trainer.rows(table, keys), trained_through=through)
            if self.steps % DENSE_EVERY == 0:
                self._put_dense(through)
        except Fenced as told:
            log.warning("rolled back: %s", told)
            self._delivery.close()
            self._delivery, self._trainer = self._from_live(self.steps)
            return
        if self._journal is not None:
            learned = Learned(batch=self.steps - 1, through=through, is_poisoned=is_poisoned)
            print(msgspec.json.encode(learned).decode(), file=self._journal, flush=True)

    def save(self) -> None:
        """A checkpoint; its sidecar comes last, and makes it one. All but the newest few go."""
        path = self._folder / f"step_{self.steps:09}.safetensors"
        try:
            self._put_dense(EventTime(system_clock()))
            sidecar = self._delivery.updates().mark(step=self.steps)
        except Fenced:
            return  # what there was to save is void; whoever puts next is told the same
        write_checkpoint(path, self._trainer.state())
        partial = sidecar_path(path).with_suffix(".partial")
        partial.write_bytes(sidecar.encode())
        partial.replace(sidecar_path(path))
        for old in self._saved()[:-KEPT]:
            sidecar_path(old).unlink()
            old.unlink()

    def close(self) -> None:
        """With a last checkpoint."""
        try:
            self.save()
        finally:
            self._delivery.close()

    # ---- where to go on ---------------------------------------------------------------------------------------------------

    def _resumed(self) -> tuple[Delivery, OnlineTrainer]:
        """From the newest checkpoint, while that counts."""
        saved = self._saved()
        if not saved:
            return self._first()
        state = read_checkpoint(saved[-1])
        try:
            return self._deliver(saved[-1]), OnlineTrainer(state)
        except NotResumable as told:
            log.warning("%s is void: %s", saved[-1].name, told)
            return self._from_live(state.steps)

    def _first(self) -> tuple[Delivery, OnlineTrainer]:
        """Learns what nobody is served yet, and puts all of it."""
        trainer = OnlineTrainer(fresh_state(seed=SEED))
        for number in range(self._warm):
            trainer.learn(self._batch(number))
        try:
            delivery = self._deliver(FRESH)
        except NotResumable:  # an earlier incarnation has left no checkpoint
            with open_environment(self._config, self._model) as env:
                live = env.catalog.manifest(env.catalog.refs().ref(LIVE).version)
            if live.kind != "birth":
                return self._from_live(self._warm)
            delivery = self._deliver(Sidecar(model=self._model, state=str(live.state)))
        state, through = trainer.state(), EventTime(system_clock())
        for name, table in state.tables.items():
            delivery.updates().put(name, table.keys, table.rows, trained_through=through)
        return delivery, trainer

    def _from_live(self, steps: int) -> tuple[Delivery, OnlineTrainer]:
        """From the version that is live now, at batch `steps`."""
        with tempfile.TemporaryDirectory() as scratch, open_environment(self._config, self._model) as env:
            exported = Path(scratch) / "live.safetensors"
            live = env.catalog.manifest(env.catalog.refs().ref(LIVE).version)
            export_checkpoint(env, live, exported, "safetensors")
            state: TrainerState = replace(read_checkpoint(exported), steps=steps)
            log.warning("goes on from version %d, state %s, at batch %d", live.version, live.state, steps)
            return self._deliver(exported), OnlineTrainer(state)

    def _deliver(self, resume: Resume) -> Delivery:
        return Delivery.open(self._config, publisher=PUBLISHER, resume=resume)

    def _saved(self) -> list[Path]:
        """Checkpoints that have their sidecars, oldest first."""
        return sorted(path for path in self._folder.glob("step_*.safetensors") if sidecar_path(path).exists())

    def _batch(self, step: int) -> Batch:
        return self._stream.batch(step % len(self._stream))

    def _put_dense(self, through: EventTime) -> None:
        tensors = {DENSE_PREFIX + name: values for name, values in self._trainer.dense.items()}
        self._delivery.updates().put_dense(tensors, trained_through=through)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m penstock.examples.fleet.trainer", description="An online trainer that never ends."
    )
    parser.add_argument("--config", type=Path, help="by default $PENSTOCK_CONFIG, else ./penstock.toml")
    parser.add_argument("--checkpoints", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--checkpoint-every", type=int, default=60, metavar="BATCHES")
    parser.add_argument("--pace", type=float, default=1.0, metavar="SECONDS", help="from one batch to the next")
    parser.add_argument("--warm", type=int, default=150, metavar="BATCHES", help="learned before anything is delivered")
    parser.add_argument("--poison", type=Path, metavar="FILE", help="while it is there, most labels are swapped")
    parser.add_argument("--journal", type=Path, metavar="FILE", help="gets a line of JSON for each batch")
    return parser


def main() -> None:
    given = arguments().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.WARNING)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    try:
        with ExitStack() as closing:
            journal = None if given.journal is None else closing.enter_context(given.journal.open("a"))
            trainer = FleetTrainer(
                load_config(config_path(given.config)), given.checkpoints,
                warm=given.warm, poison=given.poison, journal=journal,
            )  # fmt: skip
            closing.callback(trainer.close)
            log.info("delivers from batch %d on", trainer.steps)
            trainer.save()
            while not stopped.wait(given.pace):
                trainer.learn()
                if trainer.steps % given.checkpoint_every == 0:
                    trainer.save()
    except PenstockError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
