"""The acts of the story. Everything that moves a version is a run of a DAG, by its schedule or by an operator; the trainer and
the replicas are processes of their own.

It knows the order of the story. How servers start, how the fleet is watched and what is shown is known elsewhere.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from penstock.examples.retail.inference import Inference
from penstock.examples.retail.live import Screen
from penstock.examples.retail.staging import Command, Stage
from penstock.examples.retail.story import AUC_BATCHES
from penstock.pipeline.catalog import leases
from penstock.pipeline.config import load_config
from penstock.pipeline.core.errors import PenstockError, Unreachable
from penstock.pipeline.core.ids import Version
from penstock.pipeline.core.manifest import Manifest
from penstock.pipeline.core.times import format_time
from penstock.pipeline.environment import Environment, open_environment
from penstock.publishers.verification import Verification
from penstock.rollback.plan import RollbackPlan

from .evidence import taken_back
from .figures import Lag, RolledBack
from .picture import Marks
from .servers import Airflow, free_port
from .watching import Buckets, Scorer, joined, quantile, update_lag

T = TypeVar("T")
MODEL = "retail"
REPLICAS = ("replica-0", "replica-1")
NEWCOMER = "replica-2"
SCHEDULED = ("snapshot", "delta", "compaction", "retention", "verification")
BY_HAND = ("freeze", "rollback")
REASON = "a release of the client swaps labels"
FALLEN = 0.2
"""By so much AUC falls before the operator acts."""
LOOK_S, PATIENCE_S = 0.5, 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """How long the story is. Schedules are cron expressions, with seconds if they have six fields. Before the poison the fleet
    flows for `flow_s`, and until `deltas` versions were made by schedule."""

    warm: int
    pace_s: float
    checkpoint_every: int
    flow_s: float
    deltas: int
    delta: str
    snapshot: str
    care: str


FULL = Script(
    warm=150, pace_s=0.5, checkpoint_every=20, flow_s=180, deltas=4,
    delta="* * * * * */20", snapshot="*/2 * * * *", care="*/3 * * * *",
)  # fmt: skip
SHORT = Script(
    warm=500, pace_s=0.4, checkpoint_every=20, flow_s=15, deltas=1,
    delta="* * * * * */15", snapshot="17 3 * * *", care="47 4 * * *",
)  # fmt: skip


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What `penstock rollback --dry-run --json` prints."""

    plan: RollbackPlan


class Play:
    """`stage` has the config, and processes; `closing` ends what the acts begin. The log of a failed run goes into `failed`."""

    def __init__(
        self, stage: Stage, airflow: Airflow, script: Script, screen: Screen, closing: ExitStack, *, failed: Path
    ) -> None:
        self._failed = failed
        self._stage, self._airflow, self._script, self._screen, self._closing = stage, airflow, script, screen, closing
        self._began = time.monotonic()
        self._poison = stage.folder / "poison"
        self._inference = Inference()
        closing.callback(self._inference.close)
        self.scorer = Scorer(stage.folder / "journal", self._inference, self.now_s)
        self._marks: dict[str, float] = {}
        self._lag: dict[str, list[Buckets]] = {}
        self._probes: dict[str, str] = {}
        self.env, self._trainer = self._begun()
        self.frozen_auc = float("nan")

    def now_s(self) -> float:
        return time.monotonic() - self._began

    # ---- acts ------------------------------------------------------------------------------------------------------------

    def _begun(self) -> tuple[Environment, Command]:
        """The trainer, and the model that it opens."""
        self._screen.act("A trainer")
        command = [
            sys.executable, "-m", "penstock.examples.fleet.trainer", "--checkpoints", str(self._stage.folder / "checkpoints"),
            "--checkpoint-every", str(self._script.checkpoint_every), "--pace", str(self._script.pace_s),
            "--warm", str(self._script.warm), "--poison", str(self._poison), "--journal", str(self._stage.folder / "journal"),
        ]  # fmt: skip
        trainer = self._stage.start_program("trainer", *command)
        self._until("the trainer's first checkpoint", lambda: any(self._stage.folder.glob("checkpoints/*.json")))
        settings = load_config(self._stage.config)
        return self._closing.enter_context(open_environment(settings, MODEL, who="fleet")), trainer

    def begin(self) -> None:
        """The replicas, and the first snapshot."""
        self._screen.act("Two replicas")
        self._replicas(*REPLICAS)
        wanted = {_dag(what) for what in (*SCHEDULED, *BY_HAND)}
        self._until("the DAGs", lambda: wanted <= set(self._airflow.dags()))
        if errors := self._airflow.import_errors():
            raise PenstockError(f"a DAG cannot be imported: {errors[0]['stack_trace']}")
        self._screen.act("The first snapshot is asked for, then the DAGs are let loose")
        first, *others = SCHEDULED
        self._airflow.unpause(_dag(first))
        self._finished(first, self._airflow.trigger(_dag(first)))
        self._until("replicas with a version", lambda: all(each.status().version > 0 for each in self._inference.replicas))
        for what in others:
            self._airflow.unpause(_dag(what))

    def flow(self) -> float:
        """Three tiers; returns the AUC of the last window."""
        self._screen.act(f"Three tiers flow; deltas by schedule ({self._script.delta}), for {self._script.flow_s:.0f} s at least")
        self._closing.callback(self.scorer.close)
        self.scorer.start()
        until = self.now_s() + self._script.flow_s
        self._until(
            f"{self._script.deltas} deltas by schedule, and {AUC_BATCHES} batches scored",
            lambda: self.now_s() > until and self.scorer.newest() and len(self._made("delta")) >= self._script.deltas,
        )
        return self._auc("with what the replicas serve")

    def poison(self, before: float) -> float:
        """Most labels are swapped, until AUC has fallen and a version has learned it. Returns the AUC then."""
        self._screen.act("A release of the shop's client swaps labels")
        self._marks["poisoned"] = self.now_s()
        self._poison.touch()
        first = self._until("a poisoned batch", self.scorer.first_poisoned)
        self._until(
            f"AUC to fall by {FALLEN}, and a poisoned version",
            lambda: self._has_fallen(before - FALLEN) and self.env.catalog.history().newest.trained_through >= first.through,
        )
        return self._auc("falls")

    def freeze(self) -> None:
        """The first button."""
        self._screen.act(f"An operator triggers {_dag('freeze')}")
        self._finished("freeze", self._airflow.trigger(_dag("freeze"), {"reason": "AUC falls"}))
        self._marks["frozen"] = self.now_s()

    def roll_back(self) -> RolledBack:
        """The form, the plan, the approval, and the wait for every replica."""
        first = self._until("the journal", self.scorer.first_poisoned)
        before, dag = format_time(first.through), _dag("rollback")
        self._screen.act(f"The operator triggers {dag} with before = {before}")
        run = self._airflow.trigger(dag, {"before": before, "reason": REASON})
        asked = self._until(
            "the question of the rollback", lambda: self._airflow.questions(dag, run), lambda: self._airflow.told(dag, run)
        )
        for line in asked[0]["body"].splitlines():
            if line.startswith("- "):
                self._screen.say(line)
        shown = self._stage.start("rollback", "--before", before, "--reason", REASON, "--dry-run", "--json").result()
        plan = msgspec.json.decode(shown, type=Shown).plan
        self._poison.unlink()
        self._lag["before"] = self._lags()
        self._marks["approved"], self.frozen_auc = self.now_s(), self._auc("while they are frozen")
        self._screen.say("the release is withdrawn, and the operator approves")
        self._finished("rollback", run, approve=True)
        self._marks["confirmed"] = self.now_s()
        made, confirmed = (self._airflow.result(dag, run, task) for task in ("commit", "confirm"))
        said = self._stage.start("verify", str(made["version"]), "--json").result()
        verified = msgspec.json.decode(said, type=Verification)
        found = RolledBack(
            run=f"{dag}/{run}", before=before, version=made["version"],
            timeline=plan.timeline, base=plan.base, lost_rows=plan.lost.row_count,
            lost_versions=taken_back(self.env, Version(made["version"])),
            commit_s=self._marks["confirmed"] - self._marks["approved"], confirmed=confirmed, verified=str(verified.digest),
            trainer_told=self._until("the trainer to be told", self._told),
        )  # fmt: skip
        differing = {name: digest for name, digest in confirmed.items() if digest != found.verified}
        if differing or set(confirmed) != set(REPLICAS) or not verified.ok:
            raise PenstockError(f"version {found.version}: {found.verified} was verified, {confirmed} reported")
        self._screen.say(f"version {found.version} on timeline {found.timeline}; digest {found.verified} on all replicas")
        return found

    def recover(self, back: RolledBack) -> tuple[float, dict[str, str]]:
        """The trainer goes on from what is live, and a third replica comes from nothing. Returns the first AUC that lies wholly
        behind the rollback, and the digests that all three have at one version of the new timeline."""
        self._screen.act("The trainer goes on from the export; a third replica starts from nothing")
        self._lag["from"] = self._lags()
        at = len(self.scorer.points)
        self._replicas(NEWCOMER)
        self._until("a window behind the rollback", lambda: self.scorer.newest() and len(self.scorer.points) > at + AUC_BATCHES)
        found = self._until("one digest on all replicas, at a version behind the rollback", lambda: self._agreed(back.version))
        self._auc("at the end")
        return self.scorer.points[at + AUC_BATCHES].auc, found

    # ---- evidence --------------------------------------------------------------------------------------------------------

    def lag(self) -> tuple[Lag, Lag]:
        """Up to the rollback, and behind it."""
        before = self._lag["before"]
        nothing: list[Buckets] = [{} for _ in before]
        return _lag(joined(before, nothing)), _lag(joined(self._lags()[: len(before)], self._lag["from"]))

    def runs(self) -> dict[str, dict[str, int]]:
        """Of each DAG, how many have ended how."""
        dags = [_dag(what) for what in (*SCHEDULED, *BY_HAND)]
        return {dag: dict(Counter(run["state"] for run in self._airflow.runs(dag))) for dag in dags}

    def shown(self) -> Marks:
        return Marks(**self._marks)

    # ---- shared ----------------------------------------------------------------------------------------------------------

    def _replicas(self, *names: str) -> None:
        started = {name: self._replica(name) for name in names}
        for name, command in started.items():
            url = self._until(f"{name} to start", partial(self._address, name, command))
            self._inference.add(name, url)
            self._screen.say(f"{name} serves version {self._inference.replicas[-1].status().version}")

    def _replica(self, name: str) -> Command:
        port = free_port()
        self._probes[name] = f"http://127.0.0.1:{port}"
        return self._stage.start("replica", "--name", name, "--listen", "127.0.0.1:0", "--health-port", str(port))

    def _address(self, name: str, command: Command) -> str | None:
        command.running()
        present = leases.presences(self.env.catalog, now=self.env.clock())
        return next((found.address for found in present if found.replica == name and found.ready and found.address), None)

    def _finished(self, what: str, run: str, *, approve: bool = False) -> None:
        """Waits until the run has succeeded, and approves what it asks meanwhile, as often as it asks: a task that is tried again
        asks again."""
        dag = _dag(what)

        def look() -> str | None:
            for _ in self._airflow.questions(dag, run) if approve else ():
                self._airflow.answer(dag, run, "approve", "Approve")
            state = self._airflow.run(dag, run)["state"]
            return state if state in ("success", "failed") else None

        if self._until(f"{dag} to end", look, lambda: self._airflow.told(dag, run)) != "success":
            self._failed.write_text(self._airflow.told(dag, run))
            raise PenstockError(f"{dag} has failed, see {self._failed}")
        self._screen.say(f"{dag} has succeeded")

    def _made(self, kind: str) -> list[Manifest]:
        return [manifest for manifest in self.env.catalog.history().trunk if manifest.kind == kind]

    def _has_fallen(self, below: float) -> bool:
        newest = self.scorer.newest()
        return newest is not None and newest.auc < below

    def _agreed(self, beyond: int) -> dict[str, str] | None:
        found = {replica.name: replica.status() for replica in self._inference.replicas}
        at = {status.version for status in found.values()}
        digests = {name: str(status.digest) for name, status in found.items()}
        return digests if len(at) == len(set(digests.values())) == 1 and at.pop() > beyond else None

    def _told(self) -> str | None:
        """What the trainer was told, by its log."""
        lines = self._trainer.logged.read_text(errors="replace").splitlines()
        return next((line.partition("rolled back: ")[2] for line in lines if "rolled back: " in line), None)

    def _lags(self) -> list[Buckets]:
        return [update_lag(self._probes[name]) for name in REPLICAS]

    def _auc(self, when: str) -> float:
        newest = self._until("a window of batches", self.scorer.newest)
        self._screen.say(f"AUC {when}: [bold]{newest.auc:.3f}[/]")
        return newest.auc

    def _until(self, what: str, look: Callable[[], T | None], told: Callable[[], str] = str) -> T:
        """What `look` finds, once it is something."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := look()):
            self._stage.check()
            if time.monotonic() > deadline:
                raise Unreachable(f"waited {PATIENCE_S:.0f} s for {what} {told()}")
            time.sleep(LOOK_S)
        return found


def _dag(what: str) -> str:
    return f"penstock_{MODEL}_{what}"


def _lag(buckets: Buckets) -> Lag:
    p50, p99 = (quantile(buckets, share) * 1000 for share in (0.5, 0.99))
    return Lag(p50_ms=p50, p99_ms=p99, rows=int(max(buckets.values(), default=0)))
