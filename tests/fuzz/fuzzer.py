"""One target, fuzzed in a process of its own: `python fuzzer.py TARGET --corpus DIR --found DIR --scratch DIR --seconds N`.

libFuzzer (by atheris) sees the branches and comparisons of Penstock's Python code, but for what numba compiles. A finding is
written down and the run goes on: one input for each place. What ends the process (a crash below Python, a hang in C) is written
down by libFuzzer itself, beside the others.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import hashlib
import re
import sys
from pathlib import Path
from random import Random

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "support")]

import atheris  # noqa: E402

PARSERS_OF_OTHERS = ("pickletools", "numpy.lib._format_impl")
HANG_SECONDS = 60


def compiled_by_numba() -> list[str]:
    """Modules that must stay as they are."""
    found = []
    for package in ("pipeline", "slicer", "publishers", "rollback", "serving"):
        for path in (ROOT / package).rglob("*.py"):
            if re.search(r"^(?:from|import) numba", path.read_text(), re.MULTILINE):
                found.append("penstock." + ".".join(path.relative_to(ROOT).with_suffix("").parts))
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    for name in ("corpus", "found", "scratch"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--seconds", type=int, required=True)
    asked = parser.parse_args()
    with atheris.instrument_imports(include=["penstock"], exclude=compiled_by_numba()):
        from fuzz.targets import BY_NAME, warm_up

        target = BY_NAME[asked.target]
        seeds = target.seeds()
        asked.scratch.mkdir(parents=True, exist_ok=True)
        warm_up(target, asked.scratch)
    for name in PARSERS_OF_OTHERS:
        _instrument(name)
    from fuzz.guard import judge

    for folder in (asked.corpus, asked.found):
        folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        finding = judge(target.run, seed, asked.scratch)
        if finding is not None:
            raise SystemExit(f"{target.name}: a seed is a finding: {finding.report}")
        (asked.corpus / f"seed-{hashlib.sha256(seed).hexdigest()[:16]}").write_bytes(seed)
    known: set[str] = set()

    def once(data: bytes) -> None:
        finding = judge(target.run, data, asked.scratch)
        if finding is not None and finding.where not in known:
            known.add(finding.where)
            place = asked.found / f"{hashlib.sha256(data).hexdigest()[:16]}.bin"
            place.write_bytes(data)
            print(f"FINDING {place.name} {finding.where}\n{finding.report}\n", file=sys.stderr, flush=True)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        return target.mutate(data, most, Random(seed), atheris.Mutate)[:most]

    words = asked.scratch / "words.dict"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words if word))
    gc.freeze()
    _end_at_once()
    atheris.Setup(
        [
            "fuzzer", str(asked.corpus), f"-max_total_time={asked.seconds}", f"-max_len={target.most_bytes}",
            *([f"-dict={words}"] if target.words else []),
            f"-timeout={HANG_SECONDS}", "-rss_limit_mb=0", "-print_final_stats=1", "-use_value_profile=1", "-detect_leaks=0",
            f"-artifact_prefix={asked.found}/", "-len_control=0", "-reload=0",
        ],
        once,
        custom_mutator=mutate,
    )  # fmt: skip
    atheris.Fuzz()


def _end_at_once() -> None:
    """libFuzzer ends by C's `exit`, out of a call that holds the GIL. Destructors of Arrow wait for threads that may want it."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):  # glibc
        libc.on_exit(libc._exit, None)


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def _instrument(name: str) -> None:
    """Functions of a module that is loaded already."""
    module = __import__(name, fromlist=["_"])
    for value in list(vars(module).values()):
        if callable(value) and hasattr(value, "__code__") and value.__module__ == name:
            atheris.instrument_func(value)


if __name__ == "__main__":
    main()
