"""Writes tables of words and vectors: word2vec's text and binary format, GloVe's, and lines of `key:value …`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Style = Literal["word2vec", "glove", "colon"]


def write_text(
    path: Path,
    words: Sequence[bytes],
    lines: Sequence[Sequence[str]],
    style: Style,
    *,
    end: bytes = b"\n",
    cut_last: bool = False,
) -> None:
    """Each word with its values as they are spelled; `cut_last`: the file does not end with a newline."""
    mark = b":" if style == "colon" else b" "
    text = end.join(
        word + mark + b" ".join(value.encode() for value in values) for word, values in zip(words, lines, strict=True)
    )
    head = f"{len(words)} {len(lines[0])}".encode() + end if style == "word2vec" else b""
    path.write_bytes(head + text + (b"" if cut_last else end))


def write_binary(path: Path, words: Sequence[bytes], rows: NDArray[np.float32], *, end: bytes = b"\n") -> None:
    """word2vec's binary format; `end` is behind every record."""
    records = b"".join(word + b" " + row.astype("<f4").tobytes() + end for word, row in zip(words, rows, strict=True))
    path.write_bytes(b"%d %d\n" % rows.shape + records)
