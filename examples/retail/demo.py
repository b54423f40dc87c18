"""The whole story on the real purchases: three tiers, poison, rollback, proof, recovery; a report and its figures at the end."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from secrets import token_hex

from rich.console import Console

from penstock.pipeline.config import load_config
from penstock.pipeline.environment import create_environment

from .acts import Play, RolledBack
from .figures import Figures, Quality, lines, spread, tier_figures
from .live import open_screen
from .measuring import ServedQuality, growing, version_marks
from .model import TABLES
from .recording import QualityLine, Recording, Role, RollbackMark, VersionMark
from .rehearsal import Quality as Point
from .rehearsal import Rehearsal, rehearse
from .report import write_report
from .staging import config_text, open_stage
from .story import AUC_BATCHES, FULL, POISON, SEED, Script, story_stream
from .stream import read_purchases

TITLE = "Penstock: poisoned, rolled back, recovered"


def run_demo(
    *, output: Path, store: str | None = None, log: str | None = None, endpoint: str | None = None, script: Script = FULL
) -> Figures:
    """Plays the story on `store` and `log` (URLs; by default files in a folder that is taken away at the end), and leaves
    `report.html` and `report.png` in `output`. Errors: `PenstockError` when the proof fails, and those of whatever failed."""
    # On servers that others use too, a name that nobody has.
    model = "retail" if store is None and log is None else f"retail-{token_hex(4)}"
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="penstock-demo-")))
        config = config_text(
            model=model, tables=TABLES, endpoint=endpoint, store=store or (folder / "store").as_uri(),
            log=log or (folder / "log").as_uri(),
        )  # fmt: skip
        screen = closing.enter_context(open_screen(Console(stderr=True, highlight=False)))
        stage = closing.enter_context(open_stage(folder, config))
        settings = load_config(stage.config)
        env = closing.enter_context(create_environment(settings, model, who="demo"))
        stream = story_stream(read_purchases())
        began_us = env.clock()
        play = Play(stage, env, screen, script, stream, closing)
        trainer = play.warm_up()
        remembered = play.online(trainer)
        play.poisoned(trainer)
        rolled_back = play.roll_back(trainer)
        proof = play.prove(remembered, rolled_back)
        again = play.score_again()
        final = play.recover()
        screen.act("The same story without delivery, for comparison")
        served = play.watch.quality
        rehearsal = rehearse(stream, POISON, seed=SEED)
        figures = Figures(
            seconds=play.watch.now_s(), purchases=play.watch.purchases, store=settings.store.url, log=settings.log.url,
            auc=_quality(served, again, rehearsal),
            lag_ms=spread([ms for lag in play.watch.lags.values() for ms in lag.ms]), behind_batches=spread(play.watch.behind),
            adopted_s=spread(play.watch.adopted_s), tiers=tier_figures(play.watch.tiers), rollback=rolled_back.figures,
            proof=proof, final_digests=final, page=str(output / "report.html"), picture=str(output / "report.png"),
        )  # fmt: skip
        screen.say(
            f"a trainer that was not rolled back: AUC {figures.auc.unhealed:.3f}, after the rollback {figures.auc.recovered:.3f}"
        )
        recording = _recording(
            figures, play, rolled_back, rehearsal, version_marks(env.catalog.history().trunk, began_us=began_us)
        )
        write_report(recording, output)
    return figures


def _quality(served: ServedQuality, again: float, rehearsal: Rehearsal) -> Quality:
    clean = rehearsal.after + AUC_BATCHES - 1
    points = dict(zip(served.batches, served.auc, strict=True))
    behind = [number for number in points if number >= clean]
    return Quality(
        before=points[rehearsal.first - 1], again=again, end=served.newest,
        poisoned=points[rehearsal.after - 1],
        recovered=statistics.fmean(points[number] for number in behind),
        unhealed=statistics.fmean(rehearsal.unhealed[number].auc for number in behind),
        control=statistics.fmean(rehearsal.control[number].auc for number in behind),
    )  # fmt: skip


def _recording(
    figures: Figures, play: Play, rolled_back: RolledBack, rehearsal: Rehearsal, versions: tuple[VersionMark, ...]
) -> Recording:
    served, auc = play.watch.quality, figures.auc
    numbers = range(served.batches[0], served.batches[-1] + 1)
    return Recording(
        title=TITLE,
        summary=(
            f"An online trainer learned from {figures.purchases:,} purchases; every row that it touched, and the deltas of its "
            f"checkpoints, went to two replicas. Swapped labels brought the AUC of what they served from {auc.before:.3f} "
            f"to {auc.poisoned:.3f}. One command took them back, {figures.rollback.replicas_s:.1f} s from its start; a third "
            "replica that started from nothing holds the same state to the bit, which is the one the trainer had before the "
            f"stretch. Training resumed from the export; AUC behind it is {auc.recovered:.3f}."
        ),
        quality=(
            served.line("served by replicas"),
            _line("control", "never poisoned", [rehearsal.control[number] for number in numbers]),
            _line("unhealed", "no rollback", [rehearsal.unhealed[number] for number in numbers if number >= rehearsal.first]),
        ),
        lag=tuple(lag.line(f"to {name}") for name, lag in sorted(play.watch.lags.items())),
        tiers=play.watch.tiers, versions=versions, poison=(POISON.begin, POISON.end),
        rollback=RollbackMark(at=rolled_back.through, at_s=rolled_back.at_s, before=POISON.begin, again=auc.again),
        figures=lines(figures),
    )  # fmt: skip


def _line(role: Role, label: str, points: Sequence[Point]) -> QualityLine:
    at, auc = growing([point.at for point in points], [point.auc for point in points])
    return QualityLine(role=role, label=label, at=at, auc=auc)
