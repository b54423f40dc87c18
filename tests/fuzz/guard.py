"""What counts as a finding: anything but a value or a `PenstockError`, and whatever a parser of foreign bytes must not do.

One input may take a few seconds of processor time and a few hundred MB of memory, keeps no file open, reads nothing outside
its folder and starts nothing. Errors are one line of bounded length. Knows no format and no fuzzer.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from penstock.pipeline.core.errors import LONGEST, PenstockError

CPU_SECONDS = 10
MEMORY_BYTES = 300 << 20
MAX_MESSAGE = 10 * LONGEST
ROOT = Path(__file__).resolve().parents[2]
_READABLE = (*(f"{os.path.realpath(place)}/" for place in (sys.prefix, sys.base_prefix, ROOT)), "/dev/null", "/proc/")
_FORBIDDEN = (
    "pickle.find_class",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "subprocess.Popen",
    "socket.",
    "ctypes.dlopen",
)
_PAGE = resource.getpagesize()

Run = Callable[[bytes, Path], None]
"""Puts the bytes into a folder, or not, and parses them."""


class TooSlow(BaseException):
    """Above `Exception`, so that no handler of a parser takes it for its own."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`where` tells findings apart: the kind of error, and the innermost place in Penstock; `report` is for people."""

    where: str
    report: str


class _Watch:
    """What the audit hook has seen since `folder` was set. The hook itself can never be taken away again."""

    def __init__(self) -> None:
        self.folder = ""
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.folder:
            return
        if event == "open" and isinstance(path := arguments[0], str | bytes):
            name = os.path.normpath(os.path.join(self.folder, os.fsdecode(path)))
            if name != self.folder and not name.startswith((f"{self.folder}/", *_READABLE)):
                self.seen.append(f"opens {name}")
        elif event.startswith(_FORBIDDEN) and not _loads_code():
            self.seen.append(f"{event} {arguments!r}"[:200])


def _loads_code() -> bool:
    """Whether it is a module that is imported, or a kernel out of numba's cache, which is ours, and made of pickles."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and not any(each in frame.f_code.co_filename for each in ("/numba/", "<frozen importlib")):
        frame = frame.f_back
    return frame is not None


_watches: list[_Watch] = []


def is_one_line(error: PenstockError) -> bool:
    """Whether its message can be shown on a terminal as it is: names in a checkpoint may hold anything."""
    return len(str(error)) <= MAX_MESSAGE and str(error).isprintable()


def judge(run: Run, data: bytes, folder: Path) -> Finding | None:
    """The finding that `data` is, if it is one. For the main thread only."""
    before = _lowest_descriptor()
    found = _run(run, data, folder)
    if found is None and _lowest_descriptor() != before:
        # A module that is loaded late may keep a file open, once; a leak comes back.
        gc.collect()
        before = _lowest_descriptor()
        found = _run(run, data, folder)
        gc.collect()
        if found is None and _lowest_descriptor() != before:
            found = Finding("keeps a file open", "keeps a file open")
    return found


def _run(run: Run, data: bytes, folder: Path) -> Finding | None:
    if not _watches:
        _watches.append(_Watch())
    watch = _watches[0]
    watch.folder = os.path.realpath(folder)
    try:
        with _limits():
            run(data, folder)
    except PenstockError as error:
        if not is_one_line(error):
            return Finding(f"unprintable {_innermost(error)}", f"{type(error).__name__}: {str(error)[:300]!r}")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001
        trace = "".join(traceback.format_exception(error, limit=-25, chain=False))
        return Finding(f"{type(error).__name__} {_innermost(error)}", trace[-6000:])
    finally:
        watch.folder = ""
        seen, watch.seen = watch.seen, []
    return Finding(seen[0][:60], "\n".join(seen[:20])) if seen else None


@contextmanager
def _limits() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TooSlow(f"more than {CPU_SECONDS} s")

    handler = signal.signal(signal.SIGPROF, stop)
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if sys.platform == "linux":  # elsewhere nobody says how much there is already
        resource.setrlimit(resource.RLIMIT_DATA, (_data_bytes() + MEMORY_BYTES, hard))
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        signal.signal(signal.SIGPROF, handler)


def _data_bytes() -> int:
    """What the kernel holds against RLIMIT_DATA: private writable memory, touched or not."""
    with open("/proc/self/statm", "rb", buffering=0) as file:
        return int(file.read(200).split()[5]) * _PAGE


def _lowest_descriptor() -> int:
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    return lowest


def _innermost(error: BaseException) -> str:
    """The last place in the code that is tested; line numbers would make a new finding of every edit."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename.startswith(f"{ROOT}/")]
    ours = [frame for frame in frames if "/tests/" not in frame.f_code.co_filename and "/.venv/" not in frame.f_code.co_filename]
    if not (ours or frames):
        return "nowhere"
    code = (ours or frames)[-1].f_code
    return f"{Path(code.co_filename).name}:{code.co_name}"
