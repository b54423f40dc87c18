"""`versions`, `history`, `promote`, `pin`, `unpin`, `freeze`, `thaw`, `verify`, `compact`, `retention`: what scripts rely on."""

import pytest

from penstock.pipeline.cli import care, moves, output

VERSION_KEYS = {"version", "timeline", "state", "kind", "base", "rows", "tombstones", "bytes", "trained_through", "digest"}


def keys_of(kind):
    return set(kind.__struct_fields__)


def test_versions_lists_the_newest_last(shell):
    found = shell.json("versions")
    assert [each["version"] for each in found] == [0, 1, 2, 3]
    assert [each["kind"] for each in found] == ["birth", "snapshot", "delta", "delta"]
    assert [each["base"] for each in found] == [None, 0, 1, 2]
    assert [each["refs"] for each in found] == [[], [], [], ["live"]]
    newest = found[-1]
    assert VERSION_KEYS <= keys_of(output.VersionDocument) == set(newest)
    assert newest["state"] == "1-3"
    assert newest["rows"] == 1
    assert newest["trained_through"] == "2024-11-01T10:20:00Z"
    assert bytes.fromhex(newest["digest"])


def test_history_says_who_when_and_why(shell):
    found = shell.json("history")
    assert [each["what"] for each in found][:2] == ["born", "snapshot 1 of state 1-1"]
    assert all(set(each) == keys_of(moves.MoveDocument) for each in found)
    assert found[1]["why"] == "the first"
    assert found[1]["who"] == "trainer-0"
    assert found[-1]["refs"] == {"live": 3}


def test_history_of_a_ref_and_since(shell, monkeypatch):
    monkeypatch.setenv("PENSTOCK_ACTOR", "ann")
    before = len(shell.json("history"))
    shell("promote", 2, "--ref", "canary", "--reason", "gate passed")
    shell("freeze", "--reason", "AUC falls")
    shell("pin", 2, "--reason", "audit")
    shell("unpin", 2, "--reason", "audit is over")
    shell("thaw", "--reason", "false alarm")
    found = shell.json("history")[before:]
    assert [(each["who"], each["why"], each["moved"]) for each in found] == [
        ("ann", "gate passed", ["canary"]), ("ann", "AUC falls", ["live"]), ("ann", "audit", []), ("ann", "audit is over", []),
        ("ann", "false alarm", ["live"]),
    ]  # fmt: skip
    assert [each["what"] for each in found][2:4] == ["pinned version 2 as version-2", "unpinned version 2, which was version-2"]
    assert shell.json("history", "--ref", "canary") == found[:1]
    assert [each["what"] for each in shell.json("history", "--ref", "live")][-2:] == ["froze live", "thawed live"]
    assert shell.json("history", "--since", found[1]["at"]) == found[1:]
    assert shell.json("history", "--since", "7d")[-1] == found[-1]
    assert shell.json("history", "--since", "2100-01-01T00:00:00Z") == []
    assert "gate passed" in shell("history", "--ref", "canary").out


@pytest.mark.parametrize(
    ("options", "code"),
    [(("--ref", "none"), 5), (("--since", "yesterday"), 2), (("--since", "2026-11-21T10:07:00"), 2), (("--since", ""), 2)],
)
def test_history_that_is_asked_for_wrongly(shell, options, code):
    assert shell("history", *options).code == code


def test_whether_care_went_well_is_recorded(shell):
    def cared():
        return {each["work"]: each["ok"] for each in shell.json("status")["care"]}

    assert cared() == {}
    for command in (("retention", "--dry-run"), ("compact", "--dry-run"), ("verify", 99)):
        shell(*command)
    assert cared() == {}
    for command in ("retention", "compact", "verify"):
        assert shell(command).code == 0
    assert cared() == {"retention": True, "compact": True, "verify": True}
    for path in (shell.folder / "store/shop/data").rglob("*.arrow"):
        path.write_bytes(b"?" * path.stat().st_size)
    assert shell("verify").code == 3
    found = next(each for each in shell.json("status")["care"] if each["work"] == "verify")
    assert not found["ok"]
    assert "is damaged" in found["found"]
    assert "PenstockCareFailed" in shell.json("status")["alerts"]


def test_a_ref_is_promoted_frozen_and_thawed(shell, monkeypatch):
    monkeypatch.setenv("PENSTOCK_ACTOR", "ann")
    canary = shell.json("promote", 2, "--ref", "canary", "--reason", "gate passed")
    assert canary.items() >= {"ref": "canary", "version": 2, "follow": "versions", "frozen": None}.items()
    frozen = shell.json("freeze", "--reason", "AUC falls")
    assert set(frozen) == keys_of(moves.RefDocument)
    assert len(frozen["frozen"]) == 2
    assert "frozen at" in shell("freeze", "--reason", "again").out
    assert shell.json("thaw")["frozen"] is None
    promoted = shell.json("history")[-4]
    assert (promoted["who"], promoted["why"]) == ("ann", "gate passed")


def test_what_cannot_be_promoted_says_why(shell):
    assert shell("promote", 99).code == 5
    back = shell("promote", 1)
    assert back.code == 3
    assert "rollback --to-version 1" in back.err
    assert shell.live() == 3


def test_a_pin_holds_until_it_is_taken_away(shell):
    pin = shell.json("pin", 2, "--reason", "audit", "--for", "1h")
    assert pin.items() >= {"version": 2, "name": "version-2", "why": "audit"}.items()
    assert pin["until"] - pin["at"] == 3_600_000_000
    assert shell.json("unpin", 2)["name"] == "version-2"
    assert shell("unpin", 2).code == 5
    assert shell("pin", 9).code == 5
    assert shell("pin", 2, "--for", "soon").code == 2


def test_verify_says_what_is_whole_and_what_is_not(shell):
    found = shell.json("verify")
    assert found.items() >= {"version": 3, "ok": True, "findings": []}.items()
    assert found["digest"] == shell.json("compact")["digest"], "the same state, written as a whole"
    run = next((shell.folder / "store/shop/data").rglob("*.arrow"))
    data = bytearray(run.read_bytes())
    data[-200] ^= 1
    run.chmod(0o644)
    run.write_bytes(data)
    codes = {version: shell("verify", version, "--json").code for version in (1, 2, 3)}
    assert 3 in codes.values()
    damaged = shell("verify", max(version for version, code in codes.items() if code == 3))
    assert "is damaged" in damaged.out


def test_compact_writes_a_whole_state_beside_the_chain(shell):
    dry = shell.json("compact", "--dry-run")
    assert dry == {"chain": 3, "max_chain": 24, "due": False, "version": None, "rows": 0, "bytes": 0, "digest": None}
    made = shell.json("compact")
    assert set(made) == keys_of(care.CompactionDocument)
    assert (made["version"], made["rows"]) == (4, 32)
    assert shell.json("compact", "--dry-run")["chain"] == 1
    assert shell.live() == 3


def test_retention_keeps_what_the_window_needs(shell):
    plan = shell.json("retention", "--dry-run")
    assert {each["version"] for each in plan["kept"]} == {0, 1, 2, 3}
    assert plan["expired_versions"] == plan["expired_objects"] == []
    assert shell.json("retention")["freed_bytes"] == 0


@pytest.mark.parametrize(
    "command",
    ["versions", "history", "verify", "compact --dry-run", "compact", "retention --dry-run", "retention", "status",
     "promote 3 --ref canary", "pin 3", "trace --table item 30", "trace --table item 31"],
)  # fmt: skip
def test_people_can_read_it_in_any_terminal(shell, columns, command):
    said = shell(*command.split())
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines
    assert max(map(len, lines)) <= columns
    if command == "versions":
        assert "2024-11-01T10:20:00Z" in said.out, "nothing is folded that people copy"
