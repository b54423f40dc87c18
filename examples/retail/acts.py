"""The acts of the demo, each of which builds on the one before. The trainer runs in this process; replicas and the operator's
commands are processes of their own.

It knows the order of the story. How to deliver, ask, prove and draw is known elsewhere.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import msgspec
import numpy as np

from penstock.pipeline.catalog import leases
from penstock.pipeline.core.errors import Fenced, PenstockError
from penstock.pipeline.core.ids import Version
from penstock.pipeline.core.manifest import Manifest
from penstock.pipeline.core.times import EventTime, format_time
from penstock.pipeline.environment import Environment
from penstock.publishers import FRESH, Delivery
from penstock.publishers.verification import Verification
from penstock.rollback.plan import RollbackPlan

from .checkpoint import read_checkpoint
from .evidence import Remembered, ignored_at_end, send_again
from .figures import ProofFigures, RollbackFigures
from .inference import Inference
from .live import Screen
from .measuring import LogMeter
from .online import PUBLISHER, DeliveringTrainer
from .quality import SlidingAuc
from .staging import COMMAND_S, START_S, Command, Stage, awaited
from .story import AUC_BATCHES, POISON, SEED, Script
from .stream import PurchaseStream
from .trainer import OnlineTrainer, fresh_state
from .watching import Watch

REPLICAS = ("replica-0", "replica-1")
NEWCOMER = "replica-2"
LATE_RECORDS = 200
REASON = "a release of the client swaps labels"


class OperatorsReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the demo needs of what `penstock rollback --json` prints."""

    plan: RollbackPlan
    version: Version
    timeline: int
    rows_restored: int
    tombstones: int
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RolledBack:
    """What the operator's command did, and what the trainer that did not heed it was told in the end. The trainer had come to
    events at `through` by then."""

    manifest: Manifest
    figures: RollbackFigures
    fenced: Fenced
    through: EventTime
    at_s: float


class Play:
    """`env` is the model's, as the demo sees it; `closing` ends what the acts begin. Batches [`first`, `after`) are poisoned."""

    def __init__(
        self, stage: Stage, env: Environment, screen: Screen, script: Script, stream: PurchaseStream, closing: ExitStack
    ) -> None:
        self._stage, self._env, self._screen, self._script, self._stream = stage, env, screen, script, stream
        self._closing, self._inference = closing, Inference()
        closing.callback(self._inference.close)
        self.first, self.after = stream.first_at(POISON.begin), stream.first_at(POISON.end)
        self.watch = Watch(screen, self._inference, LogMeter(env), batches=script.end)

    # ---- acts ------------------------------------------------------------------------------------------------------------

    def warm_up(self) -> DeliveringTrainer:
        """Learns what nobody is served yet, publishes it as the first snapshot, and starts the replicas from that."""
        self._screen.act(f"A trainer learns from the first {self._script.online} batches; the first snapshot")
        trainer = OnlineTrainer(fresh_state(seed=SEED))
        for number in range(self._script.online):
            trainer.learn(self._stream.batch(number))
        delivering = self._deliver(trainer, Delivery.open(self._stage.config, publisher=PUBLISHER, resume=FRESH))
        manifest = delivering.publish_snapshot()
        self.watch.published(manifest)
        self._screen.say(f"version {manifest.version}: {manifest.rows:,} rows, {manifest.bytes:,} bytes")
        self._screen.act("Two replicas in processes of their own")
        started = {name: self._replica(name) for name in REPLICAS}
        for name, command in started.items():
            self._ask(name, command)
        return delivering

    def online(self, trainer: DeliveringTrainer) -> Remembered:
        """Learns and delivers up to the poison; returns what the trainer has then."""
        self._screen.act("Online: each batch is scored by a replica, learned, and delivered")
        self._learn(trainer, range(self._script.online, self.first))
        self.watch.say_quality()
        return Remembered(trainer.trainer.state(), trainer.delivered_dense)

    def poisoned(self, trainer: DeliveringTrainer) -> None:
        self._screen.act(f"From {format_time(POISON.begin)} on, a client reports swapped labels; the trainer learns them")
        self._learn(trainer, range(self.first, self.after))
        self.watch.say_quality()

    def roll_back(self, trainer: DeliveringTrainer) -> RolledBack:
        """The operator's command, while the trainer goes on with the poison as though nothing had happened."""
        before = format_time(POISON.begin)
        self._screen.act(f'penstock rollback --before {before} --reason "{REASON}"')
        batches = [POISON.reported(self._stream.batch(number)) for number in range(self.first, self.after)]
        stopped = threading.Event()
        with ThreadPoolExecutor(1) as aside:
            told = aside.submit(trainer.learn_heedlessly, batches, stopped)
            try:
                began = time.perf_counter()
                command = self._stage.start(
                    "rollback", "--before", before, "--reason", REASON, "--json", environment={"PENSTOCK_ACTOR": "operator"}
                )
                awaited("every replica to follow the rollback", lambda: self._followed(command), within_s=COMMAND_S)
                replicas_s, at_s, followed_at = time.perf_counter() - began, self.watch.now_s(), self._env.clock()
                document = msgspec.json.decode(command.result(), type=OperatorsReport)
                command_s = time.perf_counter() - began
                fenced = awaited("the trainer to be told", lambda: told.result() if told.done() else None, within_s=COMMAND_S)
            finally:
                stopped.set()
        plan = document.plan
        if document.missing:
            raise PenstockError(f"version {document.version} is not confirmed by {', '.join(document.missing)}")
        manifest = self._env.catalog.history().version(document.version)
        figures = RollbackFigures(
            fenced_s=(followed_at - manifest.created_at) / 1e6,
            version=document.version, timeline=document.timeline, before=before, replicas_s=replicas_s, command_s=command_s,
            rows_lost=plan.lost.row_count, rows_restored=document.rows_restored, tombstones=document.tombstones,
        )  # fmt: skip
        lost = ", ".join(map(str, plan.lost.versions)) or "none"
        self._screen.say(f"from version {plan.base}; takes back versions {lost} and {figures.rows_lost:,} rows of the log")
        self._screen.say(
            f"version {document.version} on timeline {document.timeline}: {document.rows_restored:,} rows restored, "
            f"{document.tombstones:,} taken away; on all replicas after {replicas_s:.2f} s"
        )
        self._screen.say(f"the trainer was told: {fenced}")
        trainer.delivery.close()
        return RolledBack(manifest, figures, fenced, trainer.trainer.trained_through, at_s)

    def prove(self, remembered: Remembered, rolled_back: RolledBack) -> ProofFigures:
        """That everybody, a newcomer too, holds and serves exactly the state from before, and late messages change nothing.
        `PenstockError` if they do not."""
        self._screen.act("Proof: a third replica starts from nothing, and poisoned messages arrive late")
        newcomer, verifying = self._replica(NEWCOMER), self._stage.start("verify", "--json")
        self._ask(NEWCOMER, newcomer)
        replicas, buckets = self._inference.replicas, self._env.schema.buckets
        ignored = {replica.name: -ignored_at_end(self._env, replica) for replica in replicas}
        late = send_again(self._env, rolled_back.manifest, most=LATE_RECORDS)
        for replica in replicas:
            ignored[replica.name] += ignored_at_end(self._env, replica)
        verified = msgspec.json.decode(verifying.result(), type=Verification)
        expected = remembered.digest(buckets)
        stated = {replica.name: str(replica.status().digest) for replica in replicas}
        served = {replica.name: remembered.served_digest(replica, buckets) for replica in replicas}
        found = {
            "penstock verify": str(verified.digest),
            **{f"{name}, as stated": digest for name, digest in stated.items()},
            **{f"{name}, as served": digest for name, digest in served.items()},
        }
        differing = {what: digest for what, digest in found.items() if digest != expected}
        unheard = [name for name, count in ignored.items() if count < late]
        if differing or unheard:
            raise PenstockError(f"the proof failed: {expected} was expected, not {differing}; late messages unheard by {unheard}")
        self._screen.say(
            f"digest {expected}: the trainer's memory, the stored version, and all that {len(served)} replicas serve"
        )
        return ProofFigures(
            remembered=expected, verified=str(verified.digest), stated=stated, served=served, fenced=str(rolled_back.fenced),
            fenced_rows=_count(rolled_back.fenced), late_records=late, late_ignored=ignored,
        )  # fmt: skip

    def score_again(self) -> float:
        """The AUC of the last window before the rollback, now that replicas are rolled back and nothing more was learned."""
        self._inference.refresh()
        window = SlidingAuc(batches=AUC_BATCHES)
        for number in range(self.after - AUC_BATCHES, self.after):
            batch = self._stream.batch(number)
            found = window.add(batch.billed, self._inference.next().scores(batch))
        self._screen.say(f"AUC of the last {AUC_BATCHES} poisoned batches, scored once more: [bold]{found:.3f}[/]")
        return found

    def recover(self) -> dict[str, str]:
        """A trainer starts from the export and goes on behind the stretch. Returns the digest of each replica at the end."""
        restart = self._stage.folder / "restart.safetensors"
        self._screen.act("penstock export --format safetensors; a new trainer goes on from it, behind the poisoned stretch")
        self._stage.start("export", "--format", "safetensors", "--output", str(restart), "--json").result()
        delivery = Delivery.open(self._stage.config, publisher=PUBLISHER, resume=restart)
        trainer = self._deliver(OnlineTrainer(read_checkpoint(restart)), delivery)
        self._learn(trainer, range(self.after, self._script.end))
        self.watch.say_quality()
        last = trainer.publish_delta()
        self.watch.published(last)
        found = awaited("every replica to have the last version", lambda: self._digests_at(last.version), within_s=START_S)
        if len(set(found.values())) != 1:
            raise PenstockError(f"replicas at version {last.version} have different digests: {found}")
        self.watch.meter.read_all()
        return found

    # ---- shared ----------------------------------------------------------------------------------------------------------

    def _learn(self, trainer: DeliveringTrainer, numbers: range) -> None:
        for number in numbers:
            batch = POISON.reported(self._stream.batch(number))
            replica = self._inference.next()
            self.watch.scored(batch, replica.scores(batch))
            put_at = time.perf_counter()
            step = trainer.learn(batch)
            self.watch.learned(batch, step, trainer.trainer, replica, put_at)
            if number % self._script.checkpoint_every == 0:
                marked_at = time.perf_counter()
                manifest = trainer.publish_delta()
                self.watch.published(manifest)
                self.watch.awaits(manifest, since=marked_at)

    def _deliver(self, trainer: OnlineTrainer, delivery: Delivery) -> DeliveringTrainer:
        self._closing.callback(delivery.close)
        return DeliveringTrainer(trainer, delivery, self._stage.folder)

    def _replica(self, name: str) -> Command:
        return self._stage.start("replica", "--name", name, "--listen", "127.0.0.1:0")

    def _ask(self, name: str, command: Command) -> None:
        """From now on the replica is asked as well, once it is ready."""
        replica = self._inference.add(name, awaited(f"{name} to start", lambda: self._address(name, command), within_s=START_S))
        status = replica.status()
        self._screen.say(f"{name}: version {status.version}, digest {status.digest}")

    def _address(self, name: str, command: Command) -> str | None:
        command.running()
        present = leases.presences(self._env.catalog, now=self._env.clock())
        return next((found.address for found in present if found.replica == name and found.ready and found.address), None)

    def _followed(self, command: Command) -> bool | None:
        command.running()
        timeline = self._env.catalog.refs().timeline
        return all(replica.status().timeline == timeline > 1 for replica in self._inference.replicas) or None

    def _digests_at(self, version: Version) -> dict[str, str] | None:
        found = {replica.name: replica.status() for replica in self._inference.replicas}
        if any(status.version != version for status in found.values()):
            return None
        return {name: str(status.digest) for name, status in found.items()}


def _count(fenced: Fenced) -> int:
    return sum(np.size(np.asarray(keys)) for keys in fenced.rows.values())
