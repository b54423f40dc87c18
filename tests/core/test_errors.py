"""Messages are shown on terminals: names that a foreign file chose must not reach one as they are."""

import pytest

from penstock.pipeline.core.errors import LONGEST, Corrupt


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb", "a b"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\u202eevil", r"\u202eevil"),
        ("\ud800", r"\ud800"),
        ("Straße 値", "Straße 値"),
    ],
)
def test_a_message_is_one_printable_line(name, shown):
    message = str(Corrupt(f"tensor {name}"))
    assert message == f"tensor {shown}"
    assert message.isprintable()


def test_a_message_is_cut_in_its_middle():
    message = str(Corrupt(f"a{'x' * 10 * LONGEST}z"))
    assert len(message) == LONGEST
    assert (message[0], message[-1]) == ("a", "z")
