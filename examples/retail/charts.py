# mypy: disable-error-code="no-untyped-call"
"""The four charts of a recording, drawn with matplotlib on axes that the caller lays out.

It knows the recording and a palette; files and pages it does not know. Colours carry one meaning throughout: blue is what
replicas serve, orange is poison, green is the rollback.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, DateFormatter
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from .recording import Recording, VersionMark


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours as #rrggbb."""

    ink: str
    muted: str
    grid: str
    paper: str
    served: str
    poison: str
    rollback: str
    snapshot: str
    update: str


LIGHT = Palette("#1b1f27", "#646c7a", "#e3e6ec", "#ffffff", "#2563c9", "#d9590b", "#12805c", "#7a4fc4", "#0b8aa6")
DARK = Palette("#e8ebf1", "#9aa3b3", "#2b303b", "#14171d", "#6ea4ff", "#ff9350", "#41c796", "#b394f5", "#48c4df")

Draw = Callable[[Axes, Recording, Palette], None]
_LEAD_DAYS = 21.0
"""How much of the time before the poison the chart of quality shows."""
_BAR_SHARE = 0.58
"""Of the width that the longest bar takes; its text needs the rest."""
_LINES = {"served": ("-", 2.2, 4), "control": ("--", 1.5, 3), "unhealed": (":", 1.8, 3)}


def quality(axes: Axes, recording: Recording, palette: Palette) -> None:
    """AUC over event time around the poisoned stretch, which is shaded; the rollback is a line. The whole stream is inset."""
    begin = _moment(recording.poison[0])
    last = _moment(max(line.at[-1] for line in recording.quality))
    left = begin - _LEAD_DAYS
    _auc_lines(axes, recording, palette)
    shown = [
        value for line in recording.quality for at, value in zip(line.at, line.auc, strict=True) if _moment(at) >= left
    ] or [0.5]  # fmt: skip
    bottom, top = min(0.45, *shown) - 0.04, min(1.06, max(shown) + 0.09)
    axes.set_ylim(bottom, top)
    axes.set_xlim(left, last + (last - left) * 0.01)
    axes.axvline(_moment(recording.rollback.at), color=palette.rollback, linewidth=1.6, zorder=2)
    for text, at, colour, side, shift in (
        ("poisoned labels", begin, palette.poison, "right", -6),
        ("rollback", _moment(recording.rollback.at), palette.rollback, "left", 6),
    ):
        axes.annotate(
            text, (at, top), (shift, -3), textcoords="offset points",
            ha=side, va="top", color=colour, fontsize=9.5, fontweight="bold",
        )  # fmt: skip
    axes.plot(
        [_moment(recording.rollback.at)], [recording.rollback.again], "D", color=palette.rollback, markersize=7, zorder=6,
        label="the last window, scored once more",
    )  # fmt: skip
    axes.annotate(
        "0.5 is chance", (0, 0.5), (2, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
        ha="left", va="bottom", color=palette.muted, fontsize=9,
    )  # fmt: skip
    _dates(axes.xaxis, "%d %b", most=9)
    _dress(axes, palette, "Quality of what is served", "AUC in a sliding window, scored before it is learned", "event time (UTC)")
    _legend(axes, palette)
    whole = axes.inset_axes((0.62, 0.13, 0.36, 0.42))
    _auc_lines(whole, recording, palette)
    _dates(whole.xaxis, "%b", most=5)
    _plain(whole, palette)
    whole.set_title("the whole stream", loc="left", color=palette.muted, fontsize=9)


def _auc_lines(axes: Axes, recording: Recording, palette: Palette) -> None:
    colours = {"served": palette.served, "control": palette.muted, "unhealed": palette.poison}
    axes.axvspan(_moment(recording.poison[0]), _moment(recording.poison[1]), color=palette.poison, alpha=0.14, linewidth=0)
    axes.axhline(0.5, color=palette.muted, linewidth=0.8, linestyle=(0, (1, 3)))
    for line in recording.quality:
        style, width, order = _LINES[line.role]
        axes.plot(
            [_moment(at) for at in line.at], line.auc, style,
            color=colours[line.role], linewidth=width, zorder=order, label=line.label,
        )  # fmt: skip


def lag(axes: Axes, recording: Recording, palette: Palette) -> None:
    """Lag in ms on a logarithmic axis, over the run."""
    for line, colour in zip(recording.lag, cycle((palette.served, palette.snapshot, palette.update)), strict=False):
        axes.plot(line.at_s, line.lag_ms, ".", color=colour, markersize=4.5, alpha=0.75, label=line.label)
    axes.axvline(recording.rollback.at_s, color=palette.rollback, linewidth=1.6)
    values = [value for line in recording.lag for value in line.lag_ms]
    axes.set_yscale("log")
    axes.set_ylim(min(values) / 2, max(values) * 2.5)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} ms"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(left=0)
    axes.annotate(
        "rollback", (recording.rollback.at_s, 0), (5, 5), xycoords=("data", "axes fraction"), textcoords="offset points",
        ha="left", va="bottom", color=palette.rollback, fontsize=9,
    )  # fmt: skip
    _dress(
        axes,
        palette,
        "Freshness: lag of the realtime tier",
        "from the trainer's put to a lookup that gives the row",
        "seconds since the start",
    )
    _legend(axes, palette)


def tiers(axes: Axes, recording: Recording, palette: Palette) -> None:
    """Bytes moved a write, by tier, on a logarithmic axis."""
    colours = {"snapshot": palette.snapshot, "delta": palette.served, "update": palette.update}
    shown = [tier for tier in recording.tiers if tier.writes and tier.bytes]
    means = [tier.bytes / tier.writes for tier in shown]
    places = range(len(shown))
    axes.barh(places, means, height=0.52, color=[colours[tier.tier] for tier in shown])
    for place, tier, mean in zip(places, shown, means, strict=True):
        text = f"{_bytes(mean)} × {tier.writes:,} = {_bytes(tier.bytes)}\n{tier.rows:,} rows"
        axes.annotate(
            text, (mean, place), (6, 0), textcoords="offset points",
            ha="left", va="center", color=palette.ink, fontsize=8.5, linespacing=1.35,
        )  # fmt: skip
    axes.set_xscale("log")
    if means:
        low = min(means) / 8
        axes.set_xlim(low, low * (max(means) / low) ** (1 / _BAR_SHARE))
    axes.set_yticks(places, [tier.tier for tier in shown])
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(LogLocator(numticks=6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _bytes(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    _dress(axes, palette, "What the tiers move", "mean bytes a write, logarithmic", "bytes a write")
    axes.grid(visible=False, axis="y")
    axes.grid(color=palette.grid, linewidth=0.8, axis="x")


def versions(axes: Axes, recording: Recording, palette: Palette) -> None:
    """Versions over the run, each as high as what it has learned from: a rollback is a step back down."""
    looks = {"snapshot": ("s", palette.snapshot, 52), "delta": ("o", palette.served, 26), "rollback": ("D", palette.rollback, 62)}
    whole = sorted(recording.versions, key=lambda mark: mark.at_s)
    first = _moment(recording.poison[0]) - _LEAD_DAYS
    marks = [mark for mark in whole if _moment(mark.trained_through) >= first] or whole
    hidden = f"; {len(whole) - len(marks)} before them not shown" if len(marks) < len(whole) else ""
    axes.axhspan(_moment(recording.poison[0]), _moment(recording.poison[1]), color=palette.poison, alpha=0.14, linewidth=0)
    axes.plot(
        [mark.at_s for mark in marks], [_moment(mark.trained_through) for mark in marks],
        color=palette.muted, linewidth=1, zorder=2, drawstyle="steps-post",
    )  # fmt: skip
    for kind, (shape, colour, size) in looks.items():
        of_kind = [mark for mark in marks if mark.kind == kind]
        if of_kind:
            axes.scatter(
                [mark.at_s for mark in of_kind], [_moment(mark.trained_through) for mark in of_kind],
                marker=shape, color=colour, s=size, zorder=3, label=f"{kind} ({len(of_kind)})", linewidth=0,
            )  # fmt: skip
    axes.annotate(
        "poisoned", (1, _moment((recording.poison[0] + recording.poison[1]) // 2)), (-4, 0), xycoords=("axes fraction", "data"),
        textcoords="offset points", ha="right", va="center", color=palette.poison, fontsize=9,
    )  # fmt: skip
    for mark in _named(marks):
        axes.annotate(
            f"v{mark.version}, timeline {mark.timeline}" if mark.kind == "rollback" else f"v{mark.version}",
            (mark.at_s, _moment(mark.trained_through)), (7, -9), textcoords="offset points",
            ha="left", va="center", color=palette.ink, fontsize=8.5,
        )  # fmt: skip
    axes.margins(x=0.03, y=0.14)
    _dates(axes.yaxis, "%d %b", most=7)
    _dress(axes, palette, "Versions", f"each at the newest event that it had learned from{hidden}", "seconds since the start")
    _legend(axes, palette)


CHARTS: dict[str, Draw] = {"quality": quality, "lag": lag, "tiers": tiers, "versions": versions}


def _moment(us: int) -> float:
    """Microseconds as matplotlib counts dates: days since 1970."""
    return us / 86_400e6


def _named(marks: list[VersionMark]) -> Iterable[VersionMark]:
    """Those worth a name: the first, every rollback, and the last."""
    return (mark for mark in marks if mark in (marks[0], marks[-1]) or mark.kind == "rollback")


def _bytes(value: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def _dates(axis: Any, pattern: str, *, most: int) -> None:
    locator = AutoDateLocator(tz=UTC, minticks=3, maxticks=most)
    axis.set_major_locator(locator)
    axis.set_major_formatter(DateFormatter(pattern, tz=UTC))


def _plain(axes: Axes, palette: Palette) -> None:
    axes.set_facecolor(palette.paper)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(palette.muted)
    axes.grid(color=palette.grid, linewidth=0.8, axis="y")
    axes.set_axisbelow(True)
    axes.tick_params(colors=palette.muted, which="both", length=0, labelsize=9)


def _dress(axes: Axes, palette: Palette, title: str, subtitle: str, below: str) -> None:
    _plain(axes, palette)
    axes.set_xlabel(below, color=palette.muted, fontsize=9)
    axes.annotate(
        title, (0, 1), (0, 26), xycoords="axes fraction", textcoords="offset points",
        ha="left", va="bottom", color=palette.ink, fontsize=12.5, fontweight="bold",
    )  # fmt: skip
    axes.annotate(
        subtitle, (0, 1), (0, 11), xycoords="axes fraction", textcoords="offset points",
        ha="left", va="bottom", color=palette.muted, fontsize=9.5,
    )  # fmt: skip
    if not isinstance(axes.xaxis.get_major_locator(), LogLocator | AutoDateLocator):
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))


def _legend(axes: Axes, palette: Palette) -> None:
    if axes.get_legend_handles_labels()[1]:
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=4, frameon=False, fontsize=9, labelcolor=palette.ink,
            handlelength=2.2, columnspacing=1.6,
        )  # fmt: skip
