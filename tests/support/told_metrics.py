"""Metrics as Prometheus parses them."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from penstock.pipeline.exposition import Exposition


def told(collector):
    """The value of each sample, by name and labels."""
    text = Exposition(collector).page("").body.decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(found, name, **labels):
    """The sum of the samples of a name that have these labels, of which there must be some."""
    chosen = [value for (each, its), value in found.items() if each == name and set(labels.items()) <= set(its)]
    assert chosen, f"no {name} {labels}"
    return sum(chosen)
