"""The readers of safetensors, numpy and PyTorch, and how a fuzzer feeds them."""

from __future__ import annotations

import zipfile
from pathlib import Path

from fuzz import reader_seeds as seeds
from fuzz.mutation import header_length, members, mended, one_of, opcodes, plain, zip_checksums
from fuzz.target import Target, in_file, in_folder, json_words
from fuzz.walking import read_checkpoint

from penstock.slicer.readers import Checkpoint
from penstock.slicer.readers.numpy_files import open_npy, open_npz
from penstock.slicer.readers.safetensors_files import open_safetensors, open_safetensors_set
from penstock.slicer.readers.torch.torch_distributed import open_torch_distributed
from penstock.slicer.readers.torch.torch_legacy import open_torch_legacy
from penstock.slicer.readers.torch.torch_zip import open_torch_zip


def _torch_pickle(data: bytes, folder: Path) -> None:
    path = folder / "model.pt"
    path.unlink(missing_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {"data.pkl": data, **{f"data/{key}": raw for key, raw in seeds.STORAGES.items()}}.items():
            archive.writestr(zipfile.ZipInfo(f"model/{name}"), content)
    read_checkpoint(path, open_torch_zip, "pytorch")


def _set_index(index: Path) -> Checkpoint:
    return open_safetensors_set(index / "model.safetensors.index.json")


_SAFETENSORS = json_words('"dtype"', '"shape"', '"data_offsets"', '"__metadata__"', "F32", "BF16", "F8_E8M0", "C64", "BOOL")
_NPY = tuple(
    text.encode()
    for text in ("'descr'", "'fortran_order'", "'shape'", "'<f4'", "'>i8'", "'|O'", "'<M8[ns]'",
        "'|V3'", "'<U3'", "'|S0'", "True", "(2,)", "()", "'<f16'",
                         "{", "}", "[('a','<f4')]", "1e9", "-1", "2**3")
)  # fmt: skip
_PICKLE_WORDS = seeds.torch_words()
_PICKLE = one_of(opcodes(_PICKLE_WORDS), opcodes(_PICKLE_WORDS), plain)
_npy_length = mended(header_length("<H", 8))

READERS = (
    Target(
        name="safetensors", run=in_file(open_safetensors, "safetensors"), seeds=seeds.safetensors_files,
        mutate=mended(header_length("<Q", 0)), words=_SAFETENSORS,
    ),
    Target(
        name="safetensors-set", seeds=seeds.safetensors_sets, words=json_words('"weight_map"', "../", "/dev/null"),
        run=in_folder(_set_index, "safetensors set", name="model.safetensors.index.json", beside=lambda: seeds.SET_FILES),
    ),
    Target(name="npy", run=in_file(open_npy, "npy"), seeds=seeds.npy_files, mutate=_npy_length, words=_NPY),
    Target(
        name="npz", run=in_file(open_npz, "npz"), seeds=seeds.npz_files, words=_NPY,
        mutate=one_of(members(_npy_length), members(plain), mended(zip_checksums)),
    ),
    Target(
        name="torch-zip", run=in_file(open_torch_zip, "pytorch"), seeds=seeds.torch_files, words=_PICKLE_WORDS,
        mutate=one_of(members(_PICKLE), members(plain), mended(zip_checksums)), most_bytes=8192,
    ),
    Target(
        name="torch-legacy", run=in_file(open_torch_legacy, "pytorch legacy"), seeds=seeds.torch_legacy_files, mutate=_PICKLE,
        words=_PICKLE_WORDS,
    ),
    Target(
        name="torch-distributed", seeds=lambda: [seeds.distributed_files()[".metadata"]], words=seeds.distributed_words(),
        run=in_folder(open_torch_distributed, "pytorch distributed", name=".metadata", beside=seeds.distributed_files),
        mutate=one_of(opcodes(seeds.distributed_words()), plain),
    ),
    Target(name="torch-pickle", run=_torch_pickle, seeds=seeds.torch_pickles, words=_PICKLE_WORDS, mutate=_PICKLE),
)  # fmt: skip
