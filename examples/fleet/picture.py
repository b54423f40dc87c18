# mypy: disable-error-code="no-untyped-call"
"""One picture of the run: the quality of what is served, and the versions, over seconds. Needs matplotlib (the `demo` extra)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure as Canvas

from penstock.examples.retail.charts import LIGHT as COLOURS

from .figures import VersionLine
from .watching import Scored


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """Seconds of the run at which things began."""

    poisoned: float
    frozen: float
    approved: float
    confirmed: float


LOOKS = {"snapshot": ("s", COLOURS.snapshot), "delta": ("o", COLOURS.served), "compaction": ("^", COLOURS.update),
         "rollback": ("D", COLOURS.rollback)}  # fmt: skip


def draw(path: Path, points: Sequence[Scored], versions: Sequence[VersionLine], marks: Marks) -> None:
    canvas = Canvas(figsize=(10.4, 6.2), layout="constrained", facecolor=COLOURS.paper)
    quality, trunk = canvas.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    quality.plot([point.at_s for point in points], [point.auc for point in points], color=COLOURS.served, linewidth=2)
    quality.axhline(0.5, color=COLOURS.muted, linewidth=0.8, linestyle=(0, (1, 3)))
    quality.set_title("AUC of what the replicas serve", loc="left", color=COLOURS.ink)
    for kind, (shape, colour) in LOOKS.items():
        of_kind = [version for version in versions if version.kind == kind]
        if of_kind:
            trunk.scatter(
                [v.at_s for v in of_kind], [v.version for v in of_kind], marker=shape, color=colour, label=kind, zorder=3
            )
    trunk.set_title("Versions", loc="left", color=COLOURS.ink)
    trunk.set_xlabel("seconds", color=COLOURS.muted)
    trunk.legend(frameon=False, ncols=4, loc="upper left")
    for axes in (quality, trunk):
        axes.axvspan(marks.poisoned, marks.frozen, color=COLOURS.poison, alpha=0.14, linewidth=0)
        axes.axvspan(marks.frozen, marks.approved, color=COLOURS.muted, alpha=0.14, linewidth=0)
        axes.axvspan(marks.approved, marks.confirmed, color=COLOURS.rollback, alpha=0.25, linewidth=0)
        axes.grid(color=COLOURS.grid, linewidth=0.8)
        axes.tick_params(colors=COLOURS.muted, length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
    top = quality.get_ylim()[1]
    for text, at, colour in (
        ("poisoned", marks.poisoned, COLOURS.poison), ("frozen", marks.frozen, COLOURS.muted),
        ("rolled back", marks.confirmed, COLOURS.rollback),
    ):  # fmt: skip
        quality.annotate(text, (at, top), (3, -3), textcoords="offset points", va="top", color=colour, fontweight="bold")
    canvas.savefig(path, dpi=120)
