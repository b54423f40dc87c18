"""What a table should be called, and which names speak of the same thing. Knows names only."""

from __future__ import annotations

import re

_LONGEST = 90
_PLAIN = {
    "weight", "weights", "embedding", "embeddings", "embedding_bags", "embedding_weights", "embeddingbag", "emb", "embs", "bags",
    "kernel", "table", "tables", "model", "module", "layers", "params", "var", "vars", "variable", "variables", "lookup", "part",
}  # fmt: skip
"""Words that most names of tensors have: they tell no table from another."""
_OF_KEYS = {
    "vocab",
    "vocabs",
    "vocabulary",
    "id",
    "ids",
    "key",
    "keys",
    "index",
    "indices",
    "index_table",
    "tokens",
    "mapping",
    "map",
}
_OBJECT_GRAPH = "/.ATTRIBUTES/VARIABLE_VALUE"


class TableNames:
    """Names for the tables of one checkpoint, none of them twice."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def new(self, tensor: str) -> str:
        """Its `table_name`, with a number behind it if that is taken."""
        name = table_name(tensor)
        count = self._counts.get(name, 0) + 1
        found = name if count == 1 else f"{name}_{count}"
        while found in self._counts and count > 1:
            count += 1
            found = f"{name}_{count}"
        self._counts[name] = count
        self._counts.setdefault(found, 1)
        return found


def table_name(tensor: str) -> str:
    """The last part of a tensor's name that says more than "weight", fit for the config."""
    parts = [re.sub(r"[^A-Za-z0-9_-]+", "_", part).strip("_-") for part in _parts(tensor)]
    words = [part for part in parts if part and not part.isdigit()]
    telling = [part for part in words if part.lower() not in _PLAIN]
    return (telling or [part for part in words if part.lower().startswith("emb")] or words or ["table"])[-1][:_LONGEST]


def speaks_of(candidate: str, tensor: str) -> bool:
    """Whether the name of what may be the keys of a table is about the table that `tensor` names."""
    table = _telling(tensor)
    of_keys = _telling(candidate)
    return bool(of_keys) and set(of_keys) <= set(table) and table[-1] in of_keys


def says_keys(name: str) -> bool:
    """Whether a name says that it is of keys."""
    return not _OF_KEYS.isdisjoint(_words(name))


def _parts(tensor: str) -> list[str]:
    if tensor.endswith(_OBJECT_GRAPH):
        tensor = tensor.removesuffix(_OBJECT_GRAPH).replace(".S", "/")
    return [part for part in re.split(r"[./:]", tensor) if "*" not in part]


def _telling(name: str) -> list[str]:
    words = [word for part in _parts(name) for word in _words(part)]
    return [word for word in words if word not in _PLAIN and word not in _OF_KEYS and not word.isdigit()]


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
