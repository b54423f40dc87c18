import msgspec
import numpy as np
import pytest

from penstock.pipeline.core.checkpoint import decode_sidecar
from penstock.pipeline.core.coordination import Pin
from penstock.pipeline.core.documents import DigestVector, decode, encode
from penstock.pipeline.core.errors import Corrupt, InvalidInput, NaiveTime, Unsupported
from penstock.pipeline.core.times import NEVER

PIN = Pin(id="a", name="keep", version=3, who="me", at=5, why="audit")


def test_bytes_are_canonical_and_decode_to_the_same():
    assert encode(PIN) == b'{"at":5,"format":1,"id":"a","name":"keep","until":null,"version":3,"who":"me","why":"audit"}'
    assert decode(Pin, encode(PIN), "pins/keep.json") == PIN


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"format": 2}, Unsupported, "pins/keep.json: format 2, this build reads 1"),
        ({"version": "3"}, Corrupt, r"Expected `int`, got `str` - at `\$.version`"),
        ({"colour": "red"}, Corrupt, "unknown field `colour`"),
    ],
)
def test_invariant_12_a_document_is_read_strictly(change, error, words):
    damaged = msgspec.json.encode(msgspec.json.decode(encode(PIN)) | change)
    with pytest.raises(error, match=words):
        decode(Pin, damaged, "pins/keep.json")


def test_a_truncated_document_is_corrupt_at_every_length():
    whole = encode(PIN)
    for length in range(len(whole)):
        with pytest.raises(Corrupt):
            decode(Pin, whole[:length], "pins/keep.json")


def test_a_digest_vector_knows_its_length():
    digests = np.array([1, 2**63, 3], np.uint64)
    assert (DigestVector.of(digests).array(3) == digests).all()
    with pytest.raises(Corrupt, match="24 bytes for 4 buckets"):
        DigestVector.of(digests).array(4)
    with pytest.raises(Corrupt, match="digest vector"):
        DigestVector("no base64!").array(3)
    with pytest.raises(Corrupt, match="digest vector"):
        DigestVector("ü").array(3)


def test_a_sidecar_takes_what_foreign_trainers_know():
    assert decode_sidecar(b'{"trained_through": 1296820440.5, "mine": 1}', "x").through() == 1296820440_500000
    assert decode_sidecar(b'{"trained_through": "2011-02-04T11:54:00Z"}', "x").through() == 1296820440_000000
    assert decode_sidecar(b'{"trained_through": "never"}', "x").through() == NEVER
    assert decode_sidecar(b'{"step": 7}', "x").through() is None
    with pytest.raises(NaiveTime):
        decode_sidecar(b'{"trained_through": "2011-02-04T11:54:00"}', "x")
    with pytest.raises(InvalidInput, match="TIMELINE-MARKER"):
        decode_sidecar(b'{"state": "seven"}', "x")
    with pytest.raises(Corrupt, match="x: not a sidecar"):
        decode_sidecar(b'{"step": "seven"}', "x")
