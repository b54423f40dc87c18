"""The inference service that scores the retail model, from the first snapshot to the death of its replica."""

import pytest

from penstock.examples import scoring


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_it_scores_on_when_its_replica_is_gone(monkeypatch, capsys):
    monkeypatch.setattr(scoring, "LEARNED", 60)
    monkeypatch.setattr(scoring, "SCORED", 6)
    scoring.main()
    said = capsys.readouterr().out
    assert "6 batches of 1,024 examples were scored" in said
    assert "the same bit by bit; 0 were not" in said
    assert "The replica was killed" in said
    assert "1 of 1 keys are not among the hot rows, and the cluster does not answer" in said
