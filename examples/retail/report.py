"""The report of a run: one HTML page that needs nothing else, and one picture.

The page carries the charts as inline SVG whose colours are CSS variables, so that it follows the reader's light or dark
setting. It knows recordings and charts, and nothing of the run itself. Needs matplotlib (the `demo` extra).
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, fields
from html import escape
from pathlib import Path
from string import Template

from penstock.pipeline.core.errors import InvalidInput
from penstock.pipeline.core.times import format_time

from .recording import Recording

try:
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    from .charts import CHARTS, DARK, LIGHT, Draw, Palette
except ImportError as error:
    raise InvalidInput(f"the report needs matplotlib: {error}", hint="pip install 'penstock[demo]'") from None

_FONTS = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
_SHAPES = {"quality": (10.4, 4.3), "lag": (5.1, 4.0), "tiers": (5.1, 4.0), "versions": (10.4, 4.0)}
"""Inches."""
# Colours that nobody would choose, to be told apart from all others in the finished SVG.
_STAND_INS = Palette(*(f"#fe01{number:02x}" for number in range(len(fields(Palette)))))
_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { color-scheme: light dark; $light }
@media (prefers-color-scheme: dark) { :root { $dark } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 $fonts; }
main { max-width: 1000px; margin: 0 auto; padding: 40px 20px 56px; }
h1 { font-size: 1.9rem; line-height: 1.2; letter-spacing: -0.01em; margin: 0 0 10px; }
p { max-width: 68ch; margin: 0 0 12px; }
.muted { color: var(--muted); font-size: 0.9rem; }
figure { margin: 26px 0 0; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 0 28px; }
@media (max-width: 760px) { .pair { grid-template-columns: 1fr; } }
svg { display: block; width: 100%; height: auto; }
.scroll { overflow-x: auto; margin-top: 34px; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: baseline; padding: 8px 20px 8px 0; border-bottom: 1px solid var(--grid); }
th { font-weight: 600; }
td.value { font-variant-numeric: tabular-nums; white-space: nowrap; font-weight: 600; }
td.note { color: var(--muted); font-size: 0.9rem; }
</style>
</head>
<body>
<main>
<h1>$title</h1>
<p>$summary</p>
<p class="muted">$window</p>
<figure>$quality</figure>
<div class="pair"><figure>$lag</figure><figure>$tiers</figure></div>
<figure>$versions</figure>
<div class="scroll"><table>
<thead><tr><th>Figure</th><th>Value</th><th>How it was measured</th></tr></thead>
<tbody>
$figures
</tbody></table></div>
</main>
</body>
</html>
""")


@dataclass(frozen=True, slots=True)
class Report:
    """The files that were written."""

    page: Path
    picture: Path


def write_report(recording: Recording, folder: Path) -> Report:
    """Writes `report.html` and `report.png` into `folder`, which is made if need be. Equal recordings give equal pages."""
    if not recording.quality or not recording.lag or not recording.versions or not recording.tiers:
        raise InvalidInput("a report needs quality, lag, tiers and versions; the recording lacks one of them")
    folder.mkdir(parents=True, exist_ok=True)
    report = Report(folder / "report.html", folder / "report.png")
    report.page.write_text(_page(recording), encoding="utf-8")
    report.picture.write_bytes(_picture(recording))
    return report


def _page(recording: Recording) -> str:
    begin, end = map(format_time, recording.poison)
    window = (
        f"Poisoned labels: events from {begin} to {end}. Rollback: {recording.rollback.at_s:.1f} s into the run, to before "
        f"{format_time(recording.rollback.before)}."
    )
    lines = "\n".join(
        f'<tr><td>{escape(figure.name)}</td><td class="value">{escape(figure.value)}</td>'
        f'<td class="note">{escape(figure.note)}</td></tr>'
        for figure in recording.figures
    )
    return _PAGE.substitute(
        {name: _inline(name, draw, recording) for name, draw in CHARTS.items()},
        title=escape(recording.title), summary=escape(recording.summary), window=escape(window), figures=lines,
        light=_variables(LIGHT), dark=_variables(DARK), fonts=_FONTS,
    )  # fmt: skip


def _variables(palette: Palette) -> str:
    return " ".join(f"--{field.name}: {getattr(palette, field.name)};" for field in fields(Palette))


def _inline(name: str, draw: Draw, recording: Recording) -> str:
    """One chart as an SVG element, its ids and colours made fit for a page with others."""
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        canvas = Canvas(figsize=_SHAPES[name], layout="constrained")
        draw(canvas.add_subplot(), recording, _STAND_INS)
        file = io.StringIO()
        canvas.savefig(file, format="svg", facecolor="none", metadata={"Date": None, "Creator": None})
    drawn = file.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r"font-family: [^;\"]*|(?<=px )'?DejaVu Sans[^;\"]*", lambda found: _font(found[0]), drawn)
    drawn = re.sub(r'id="([\w.]+)"', rf'id="{name}-\1"', drawn)
    drawn = re.sub(r'(url\(#|href="#)([\w.]+)', rf"\1{name}-\2", drawn)
    for field in fields(Palette):
        drawn = drawn.replace(getattr(_STAND_INS, field.name), f"var(--{field.name})")
    label = escape(f"chart: {name}", quote=True)
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def _font(found: str) -> str:
    return f"font-family: {_FONTS}" if found.startswith("font-family") else _FONTS


def _picture(recording: Recording) -> bytes:
    with mpl.rc_context({"font.family": "sans-serif"}):
        spaced = ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.16, hspace=0.04, wspace=0.04)
        canvas = Canvas(figsize=(11.5, 13.2), layout=spaced, facecolor=LIGHT.paper)
        grid = canvas.add_gridspec(3, 2)
        for name, place in (("quality", grid[0, :]), ("lag", grid[1, 0]), ("tiers", grid[1, 1]), ("versions", grid[2, :])):
            CHARTS[name](canvas.add_subplot(place), recording, LIGHT)
        canvas.suptitle(recording.title, x=0.018, ha="left", color=LIGHT.ink, fontsize=17, fontweight="bold")
        file = io.BytesIO()
        canvas.savefig(file, format="png", dpi=130)
    return file.getvalue()
