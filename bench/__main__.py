"""`python -m bench [NAME...]`: runs the benches of this folder, shows their figures, and writes them to a file.

A bench is a module with a function `run() -> list[Figure]`. Ratios say more than values: machines differ, and so do moments.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import platform
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

from rich.console import Console
from rich.table import Table

from .figures import Figure

HERE = Path(__file__).parent


def benches() -> dict[str, ModuleType]:
    names = sorted(module.name for module in pkgutil.iter_modules([str(HERE)]) if module.name != "__main__")
    modules = {name: importlib.import_module(f"{__package__}.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "run")}


def machine() -> dict[str, str | int]:
    model = next((line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor())
    return {"processor": model, "cores": os.cpu_count() or 0, "system": platform.platform(), "python": platform.python_version()}


def shown(figures: dict[str, list[Figure]]) -> Table:
    table = Table("bench", "what", "value", "compared with", "ratio", "target", title="Figures")
    for bench, found in figures.items():
        for row, figure in enumerate(found):
            ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
            table.add_row(
                "" if row else bench, figure.name, f"{figure.value:,.4g} {figure.unit}", figure.peer, ratio, figure.target
            )
        table.add_section()
    return table


def main() -> int:
    known = benches()
    parser = argparse.ArgumentParser(prog="python -m bench", description=f"Benches: {', '.join(known)}.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which benches to run (all by default)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument("--output", type=Path, default=HERE / "measured.json", help="where to write the figures down")
    asked = parser.parse_args()
    if unknown := set(asked.names) - known.keys():
        parser.error(f"no bench {', '.join(sorted(unknown))} (benches: {', '.join(known)})")
    figures = {}
    for name in asked.names or known:
        print(f"{name} ...", file=sys.stderr, flush=True)
        figures[name] = known[name].run()
    document = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "figures": {name: [asdict(figure) for figure in found] for name, found in figures.items()},
    }
    text = json.dumps(document, indent=1)
    asked.output.write_text(text + "\n")
    if asked.json:
        print(text)
    else:
        Console().print(shown(figures))
    return 0


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


if __name__ == "__main__":
    sys.exit(main())
