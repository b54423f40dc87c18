import os
import signal
import sys

import pytest

from penstock.examples.retail import staging
from penstock.examples.retail.staging import awaited, config_text, open_stage
from penstock.pipeline.config import parse_config
from penstock.pipeline.core.errors import PenstockError, Unreachable


@pytest.fixture
def python(monkeypatch):
    """Commands run Python instead: the "command" is a program."""
    monkeypatch.setattr(staging, "PENSTOCK", (sys.executable, "-u", "-c"))


def is_there(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_config_says_what_was_asked():
    text = config_text(model="m", tables=("a", "b"), store='s3://b/"x"\\', log="kafka://h:1", endpoint="http://e")
    config = parse_config(text, "test")
    assert config.store.url == 's3://b/"x"\\'
    assert config.store.endpoint == "http://e"
    assert config.log.url == "kafka://h:1"
    assert {name: (t.keys, t.rows) for name, t in config.models["m"].tables.items()} == {
        "a": ("a/keys", "a/rows"),
        "b": ("b/keys", "b/rows"),
    }
    assert parse_config(config_text(model="m", tables=(), store="s", log="l", endpoint=None), "test").store.endpoint is None


def test_a_command_gives_what_it_printed_and_sees_the_config(tmp_path, python):
    with open_stage(tmp_path, "a = 1") as stage:
        command = stage.start(
            "import os; print(open(os.environ['PENSTOCK_CONFIG']).read(), os.environ['WHO'])", environment={"WHO": "me"}
        )
        assert command.result() == b"a = 1 me\n"
        assert not command.running()


def test_a_command_that_fails_says_its_last_words(tmp_path, python):
    with open_stage(tmp_path, "") as stage:
        failing = stage.start("import sys; sys.exit('no such thing')")
        with pytest.raises(PenstockError, match="exit code 1: no such thing"):
            failing.result()


@pytest.mark.parametrize("heeds", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN);"])
def test_what_was_started_ends_with_the_stage(tmp_path, python, monkeypatch, heeds):
    monkeypatch.setattr(staging, "END_S", 0.2)
    program = f"import os, signal; {heeds} child = os.fork(); print('up', flush=True); signal.pause()"
    with open_stage(tmp_path, "") as stage:
        command = stage.start(program)
        awaited("two lines", lambda: command.said.read_bytes().count(b"up") == 2 or None, within_s=20)
        assert command.running()
    assert command.process.poll() in (-signal.SIGTERM, -signal.SIGKILL)
    with pytest.raises(ProcessLookupError):
        awaited("the group to end", lambda: os.killpg(command.process.pid, 0), within_s=20)


def test_a_sigterm_ends_the_stage_as_an_interrupt_does(tmp_path, python):
    before = signal.getsignal(signal.SIGTERM)
    with open_stage(tmp_path, "") as stage:
        command = stage.start("import signal; signal.pause()")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert command.process.poll() is not None
    assert signal.getsignal(signal.SIGTERM) == before


def test_waiting_is_bounded_and_says_for_what():
    answers = iter([None, None, 7])
    assert awaited("seven", lambda: next(answers), within_s=20) == 7
    with pytest.raises(Unreachable, match="waited 0 s for nothing"):
        awaited("nothing", lambda: None, within_s=0.01)
