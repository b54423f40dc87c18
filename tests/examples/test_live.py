import io

import pytest
from rich.console import Console

from penstock.examples.retail.live import Moment, ReplicaLine, bars, duration, open_screen, size
from penstock.examples.retail.recording import TierBytes
from penstock.pipeline.core.times import NEVER, event_time

MOMENT = Moment(
    batch=7,
    batches=9,
    through=event_time("2011-05-16T00:00:00Z"),
    poisoned=True,
    auc=0.4321,
    replicas=(
        ReplicaLine(name="replica-0", version=3, timeline=2, rows=12345, lag_ms=1.25, behind_s=7200, digest="0123456789abcdef!!"),
    ),
    tiers=(TierBytes(tier="delta", bytes=1_500_000, writes=2, rows=3000),),
)


def shown(*, terminal):
    file = io.StringIO()
    with open_screen(Console(file=file, force_terminal=terminal, width=120, highlight=False)) as screen:
        screen.act("An act")
        screen.say("something [bold]happened[/]")
        screen.show(MOMENT)
    return file.getvalue()


def test_a_terminal_gets_a_picture_of_the_moment():
    text = shown(terminal=True)
    for wanted in ("An act", "7/9", "2011-05-16T00:00:00Z", "0.432", "poisoned labels", "12,345", "1.2 ms", "2.0 h", "1.5 MB"):
        assert wanted in text
    assert "0123456789abcdef" in text
    assert "!!" not in text


def test_a_pipe_gets_lines_without_escapes():
    text = shown(terminal=False)
    assert "\x1b" not in text
    told = [line.split(" s ", 1)[1].strip() for line in text.splitlines()]
    assert told == ["An act", "something happened", "batch 7 of 9, AUC 0.432; replica-0 version 3, lag 1.2 ms"]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_picture_is_not_due_at_once_again(terminal):
    with open_screen(Console(file=io.StringIO(), force_terminal=terminal)) as screen:
        screen.show(MOMENT)
        assert not screen.due()


def test_bars_and_units():
    assert bars([0.0, 0.3, 0.9, float("nan"), 1.0]) == "▁▁██"
    assert [size(n) for n in (0, 999, 1000, 1_234_567, 5e9)] == ["0 B", "999 B", "1 KB", "1.23 MB", "5 GB"]
    assert [duration(s) for s in (3, 600, 7200)] == ["3 s", "10 min", "2.0 h"]


def test_before_the_first_event():
    from dataclasses import replace

    file = io.StringIO()
    with open_screen(Console(file=file, force_terminal=True, width=120)) as screen:
        screen.show(replace(MOMENT, through=NEVER, auc=float("nan"), replicas=(), tiers=()))
    assert "nothing yet" in file.getvalue()
