"""Fuzzes the targets, each in a process of its own, and prints a table.

    python tests/fuzz/run.py [TARGET …] --seconds 300 --jobs 2

What was learned stays in `.cache/fuzz` and is gone on with; findings go to `tests/fuzz/found/TARGET`, where the tests read them.
Ends with 1 when there is one.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).resolve().parent
FOUND = HERE / "found"
CORPUS = HERE.parents[1] / ".cache" / "fuzz"
MEMORY_DISK = Path("/dev/shm")
KERNELS = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(CORPUS.with_name("fuzz-kernels"))}
"""What numba compiles is not seen by the fuzzer, but an index out of its array is an error, and not silence."""
_MARGIN_SECONDS = 300
"""For importing, for the last input, and for a corpus that has to be read first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`features` is libFuzzer's measure of coverage. `broken`: the process did not come to its end; its last words."""

    target: str
    executions: int
    per_second: int
    branches: int
    features: int
    findings: tuple[str, ...]
    broken: str


def fuzz(target: str, seconds: int, *, found: Path = FOUND, corpus: Path = CORPUS) -> Outcome:
    disk = str(MEMORY_DISK) if MEMORY_DISK.is_dir() else None
    with TemporaryDirectory(dir=disk, prefix="penstock-fuzz-") as scratch:
        command = [sys.executable, str(HERE / "fuzzer.py"), target, f"--seconds={seconds}", f"--scratch={scratch}/in"]
        command += [f"--corpus={corpus / target}", f"--found={scratch}/found"]
        try:
            done = subprocess.run(
                command,
                env=os.environ | KERNELS,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                check=False,
                timeout=seconds + _MARGIN_SECONDS,
            )
            said, code = done.stderr.decode(errors="replace"), done.returncode
        except subprocess.TimeoutExpired as error:
            said, code = (error.stderr or b"").decode(errors="replace"), -1
        kept = _keep(Path(scratch) / "found", found / target)
    said = re.sub(r"^INFO: Instrumenting .*\n", "", said, flags=re.MULTILINE)
    last = re.findall(r"cov: (\d+) ft: (\d+)", said)
    counted = {key: int(value) for key, value in re.findall(r"stat::(\w+):\s+(\d+)", said)}
    reports = re.findall(r"^FINDING (.*?)(?=^#|\Z)", said, re.MULTILINE | re.DOTALL)
    return Outcome(
        target=target,
        executions=counted.get("number_of_executed_units", 0),
        per_second=counted.get("average_exec_per_sec", 0),
        branches=int(last[-1][0]) if last else 0,
        features=int(last[-1][1]) if last else 0,
        findings=tuple(each.strip() for each in reports) or kept,
        broken="" if code == 0 else f"ended with {code}: {said[-3000:]}",
    )


def _keep(source: Path, target: Path) -> tuple[str, ...]:
    """Moves what was found to where the tests read it."""
    names = tuple(sorted(each.name for each in source.iterdir())) if source.is_dir() else ()
    if names:
        target.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.move(source / name, target / name)
    return names


def table(outcomes: Sequence[Outcome]) -> str:
    lines = [f"{'target':20} {'executions':>11} {'a second':>9} {'branches':>9} {'features':>9} {'findings':>9}"]
    for each in outcomes:
        numbers = f"{each.executions:11,} {each.per_second:9,} {each.branches:9,} {each.features:9,} {len(each.findings):9}"
        lines.append(f"{each.target:20} {numbers}{' broken' if each.broken else ''}")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    sys.path[:0] = [str(HERE.parent), str(HERE.parent / "support")]
    from fuzz.targets import BY_NAME

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of: {', '.join(BY_NAME)}; all by default")
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=1)
    asked = parser.parse_args(arguments)
    if unknown := set(asked.targets) - set(BY_NAME):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")

    def one(target: str) -> Outcome:
        outcome = fuzz(target, asked.seconds)
        print(table([outcome]).splitlines()[1], *outcome.findings, outcome.broken, sep="\n", file=sys.stderr, flush=True)
        return outcome

    with ThreadPoolExecutor(asked.jobs) as threads:
        outcomes = list(threads.map(one, asked.targets or BY_NAME))
    print(table(outcomes))
    return int(any(each.findings or each.broken for each in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
