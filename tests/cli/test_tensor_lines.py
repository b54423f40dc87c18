"""The lines that `inspect` shows: what they leave together, and that nothing is lost in them."""

import numpy as np
import pytest

from penstock.pipeline.cli.tensor_lines import MANY_LINES, tensor_lines, totals
from penstock.slicer.inspect import inspect_checkpoint


@pytest.fixture
def inspected(tmp_path):
    def inspect(**arrays):
        np.savez(tmp_path / "c.npz", **{name.replace("__", "/"): values for name, values in arrays.items()})
        return inspect_checkpoint(tmp_path / "c.npz")

    return inspect


def rows(count, dim=2):
    return np.ones((count, dim), np.float32)


def test_few_tensors_have_a_line_each_but_for_the_optimizer(inspected):
    found = inspected(top_0=rows(3), top_1=rows(3), top_2=rows(3), user_emb=rows(5), optimizer__0=rows(5), optimizer__1=rows(5))
    lines = tensor_lines(found.tensors, every=False)
    assert [line.name for line in lines] == ["top_0", "top_1", "top_2", "user_emb", "2 of the optimizer"]
    assert (lines[3].rows, lines[3].dim, lines[3].shape, lines[0].rows) == ("5", "2", "5×2", "")
    assert (lines[4].nbytes, lines[4].sliced_as) == (80, "left out: optimizer")
    assert totals(found) == (
        "1 table of 5 rows, 40 B; 3 tensors in the dense slice, 72 B; 2 tensors left out, 80 B"
    )  # fmt: skip


def test_parts_share_a_line(inspected):
    found = inspected(**{f"user_emb__part_{n}": rows(500 + n) for n in range(3)})
    (line,) = tensor_lines(found.tensors, every=False)
    assert (line.name, line.rows, line.shape) == ("user_emb/part_* (3 parts)", "1,503", "1503×2")
    assert (line.nbytes, line.sliced_as) == (1503 * 8, "table user_emb, row number is the key")
    assert len(tensor_lines(found.tensors, every=True)) == 3


def test_of_many_tensors_those_that_repeat_share_a_line(inspected):
    found = inspected(
        **{f"block_{n}_w": rows(4, 4) for n in range(MANY_LINES)},
        **{f"emb_{n}": rows(7) for n in range(MANY_LINES)}, last_1=rows(9, 9), last_2=rows(9, 9), odd=rows(1, 1),
    )  # fmt: skip
    lines = {line.name: line for line in tensor_lines(found.tensors, every=False)}
    assert set(lines) == {f"block_*_w ({MANY_LINES} of them)", f"emb_* ({MANY_LINES} of them)", "last_1", "last_2", "odd"}
    assert lines[f"emb_* ({MANY_LINES} of them)"].sliced_as == "table emb_*, row number is the key"
    assert sum(line.nbytes for line in lines.values()) == sum(tensor.nbytes for tensor in found.tensors)
    assert [line.name for line in tensor_lines(found.tensors, every=True)] == [tensor.name for tensor in found.tensors]
