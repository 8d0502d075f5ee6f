"""The GGUF reader: what it tells of real files, and that no file whatever makes it crash, linger or swell."""

import contextlib
import os
import struct
import time
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.devices.ggml_types import GGML_TYPES
from router.devices.gguf import (
    KEPT_ARRAY_LENGTH,
    MAX_STRING_BYTES,
    ArrayInfo,
    GgufError,
    TensorInfo,
    read_header,
)
from router.devices.gguf_reader import MAX_SKIPPED_STRINGS

U8, I16, BOOL, STRING, ARRAY, U32, U64 = 0, 3, 7, 8, 9, 4, 10
F32, Q8_0 = 0, 8


def _text(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def _pair(key: str, kind: int, value: bytes) -> bytes:
    return _text(key) + struct.pack("<I", kind) + value


def _tensor(name: str, shape: tuple[int, ...], kind: int = F32, offset: int = 0) -> bytes:
    return _text(name) + struct.pack(f"<I{len(shape)}qIQ", len(shape), *shape, kind, offset)


def _file(*pairs: bytes, tensors: tuple[bytes, ...] = (), data: int = 0, version: int = 3) -> bytes:
    """A GGUF file with zeros for weights."""
    header = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs)) + b"".join(pairs) + b"".join(tensors)
    return header + bytes(-len(header) % 32 + data) if tensors else header


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model as llama.cpp's own writer makes it."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Tiny Größe 1")
    writer.add_context_length(2048)
    writer.add_block_count(2)
    writer.add_head_count_kv([2, 4])
    writer.add_layer_norm_rms_eps(0.5)
    writer.add_add_bos_token(value=True)
    writer.add_token_list([f"token {number}" for number in range(300)])
    writer.add_token_scores([0.5] * 600)
    writer.add_chat_template("{{ messages }}")
    writer.add_tensor("a.weight", np.zeros((3, 64), dtype=np.float16))
    writer.add_tensor("b.weight", np.zeros((2, 34), dtype=np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("c.weight", np.zeros(7, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file.gguf"


def _error(file: Path, content: bytes) -> str:
    file.write_bytes(content)
    with pytest.raises(GgufError) as caught:
        read_header(file)
    assert str(caught.value).startswith(f"{file}: ")
    return str(caught.value).removeprefix(f"{file}: ")


def test_what_a_model_says_about_itself(model: Path) -> None:
    header = read_header(model)
    assert (header.version, header.architecture, header.name) == (3, "llama", "Tiny Größe 1")
    assert (header.context_length, header.block_count) == (2048, 2)
    assert header.metadata["llama.attention.layer_norm_rms_epsilon"] == 0.5
    assert header.metadata["tokenizer.ggml.add_bos_token"] is True
    assert header.has_chat_template
    assert not header.is_embedding
    assert (header.split_no, header.split_count) == (0, 1)
    assert header.file_size == model.stat().st_size


def test_short_arrays_are_kept_and_vocabularies_are_not(model: Path) -> None:
    metadata = read_header(model).metadata
    assert metadata["llama.attention.head_count_kv"] == ArrayInfo("i32", 2, (2, 4))
    assert metadata["tokenizer.ggml.tokens"] == ArrayInfo("string", 300)
    assert metadata["tokenizer.ggml.scores"] == ArrayInfo("f32", 600)


def test_tensors_as_llama_cpps_own_reader_sees_them(model: Path) -> None:
    header, reference = read_header(model), gguf.GGUFReader(model)
    assert header.data_offset == reference.data_offset
    assert header.tensors == tuple(
        TensorInfo(
            tensor.name,
            tuple(tensor.shape.tolist()),
            tensor.tensor_type.name,
            tensor.data_offset - reference.data_offset,
            int(tensor.n_bytes),
        )
        for tensor in reference.tensors
    )
    assert header.weights_bytes == 2 * 3 * 64 + 2 * 34 + 4 * 7


def test_the_sizes_of_tensor_types_are_those_of_gguf_py() -> None:
    theirs = {int(kind): (kind.name, *size) for kind, size in gguf.GGML_QUANT_SIZES.items()}
    theirs[9] = ("Q8_1", 32, 36)  # gguf-py says 40; the struct in ggml-common.h has 36
    ours = {number: (kind.name, kind.block, kind.bytes) for number, kind in GGML_TYPES.items()}
    assert {number: ours.get(number) for number in theirs} == theirs


@pytest.mark.parametrize(
    ("architecture", "pooling", "embedding", "reranker"),
    [
        ("bert", None, True, False),
        ("nomic-bert-moe", 1, True, False),
        ("gemma-embedding", None, True, False),
        ("qwen3", 3, True, False),
        ("qwen3", 4, True, True),
        ("qwen3", 0, False, False),
        ("llama", None, False, False),
    ],
)
def test_embedding_models(
    file: Path, architecture: str, pooling: int | None, *, embedding: bool, reranker: bool
) -> None:
    pairs = [_pair("general.architecture", STRING, _text(architecture))]
    if pooling is not None:
        pairs.append(_pair(f"{architecture}.pooling_type", U32, struct.pack("<I", pooling)))
    file.write_bytes(_file(*pairs))
    header = read_header(file)
    assert (header.is_embedding, header.is_reranker) == (embedding, reranker)


def test_metadata_of_an_unexpected_type_is_as_good_as_none(file: Path) -> None:
    architecture = _pair("general.architecture", STRING, _text("llama"))
    file.write_bytes(_file(architecture, _pair("llama.context_length", STRING, _text("many")), version=2))
    header = read_header(file)
    assert (header.version, header.context_length, header.name, header.has_chat_template) == (2, None, "", False)


def test_an_unknown_tensor_type_reaches_to_the_next_tensor(file: Path) -> None:
    tensors = (_tensor("new", (100,), kind=99), _tensor("old", (8,), offset=64))
    file.write_bytes(_file(tensors=tensors, data=96))
    header = read_header(file)
    assert [(tensor.type, tensor.bytes) for tensor in header.tensors] == [("type 99", 64), ("F32", 32)]


@pytest.mark.parametrize("size", [0, 3, 4, 11, 23])
def test_a_file_shorter_than_any_header(file: Path, size: int) -> None:
    assert _error(file, _file()[:size])


def test_every_cut_of_the_header_is_told_as_a_cut(file: Path, model: Path) -> None:
    content = model.read_bytes()
    for size in range(4, read_header(model).data_offset, 97):
        assert "cut short" in _error(file, content[:size])


def test_a_cut_tells_where_it_is(file: Path) -> None:
    whole = _file(_pair("general.name", STRING, _text("a name")), tensors=(_tensor("t", (4,)),), data=16)
    assert "the value of 'general.name' goes on" in _error(file, whole[:60])
    table = whole.index(b"t" + bytes([1, 0, 0, 0])) + 3
    assert "the table of tensors goes on" in _error(file, whole[:table])


def test_a_cut_in_the_weights_is_told(file: Path, model: Path) -> None:
    last = read_header(model).tensors[-1]
    content = model.read_bytes()
    end = read_header(model).data_offset + last.offset + last.bytes
    assert _error(file, content[: end - 5]) == "cut short: 5 bytes of tensor 'c.weight' are missing; download it again"


STRINGS_WITHOUT_END = _pair("k", ARRAY, struct.pack("<IQ", STRING, 3) + _text("a") + struct.pack("<Q", 2**64 - 1))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04 not this", "not a GGUF file"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(16), "big-endian"),
        (_file(version=1), "GGUF version 1"),
        (_file(version=4), "GGUF version 4"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63), "announces 9,223,372,036,854,775,808 metadata keys"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**40, 0), "announces 1,099,511,627,776 tensors"),
        (_file(_pair("", U8, b"\1")), "a metadata key is empty"),
        (_file(_pair("k", U8, b"\1"), _pair("k", U8, b"\1")), "'k' stands there twice"),
        (_file(_pair("k", 77, b"\1")), "'k' has the unknown type 77"),
        (_file(_pair("k" * 2000, U8, b"\1")), "a metadata key is 2,000 bytes long"),
        (_file(_pair("k", STRING, struct.pack("<Q", 2**62))), "the value of 'k' is 4,611,686,018,427,387,904 bytes"),
        (_file(_pair("k", STRING, struct.pack("<Q", MAX_STRING_BYTES))), "cut short"),
        (_file(_pair("k", ARRAY, struct.pack("<IQ", ARRAY, 1))), "'k' has the unknown type 9"),
        (_file(_pair("k", ARRAY, struct.pack("<IQ", U64, 2**61))), "cut short"),
        (_file(_pair("k", ARRAY, struct.pack("<IQ", 50, 2**61))), "'k' has the unknown type 50"),
        (
            _file(_pair("k", ARRAY, struct.pack("<IQ", STRING, MAX_SKIPPED_STRINGS + 1))),
            "to the value of 'k' hold more than 2,000",
        ),
        (_file(STRINGS_WITHOUT_END), "cut short"),
        (_file(_pair("general.alignment", U32, struct.pack("<I", 33))), "general.alignment is 33"),
        (_file(_pair("general.alignment", U32, struct.pack("<I", 0))), "general.alignment is 0"),
        (_file(_pair("general.alignment", BOOL, b"\1")), "general.alignment is True"),
        (_file(tensors=(_tensor("t" * 64, (1,)),)), "a tensor's name is 64 bytes long"),
        (_file(tensors=(_tensor("t", (1,)), _tensor("t", (1,))), data=64), "two tensors have the same name"),
        (_file(tensors=(_tensor("t", (1, 1, 1, 1, 1)),), data=64), "'t' has 5 dimensions"),
        (_file(tensors=(_tensor("t", (-4, 1)),), data=64), "the shape (-4, 1)"),
        (_file(tensors=(_tensor("t", (2**62, 2**62, 2**62, 2**62)),), data=64), "'t' cannot have the shape (4611"),
        (_file(tensors=(_tensor("t", (2**62,)),), data=64), "bytes of tensor 't' are missing"),
        (
            _file(tensors=(_tensor("t", (9,)), _tensor("u", (9,))), data=64),
            "overlap: they have 72 bytes, and there are 64",
        ),
        (_file(tensors=(_tensor("t", (33,), kind=Q8_0),), data=64), "rows of 33, not a multiple of Q8_0's 32"),
        (_file(tensors=(_tensor("t", (1,), offset=8),), data=64), "stands at 8, not at a multiple of 32"),
        (_file(tensors=(_tensor("t", (1,), offset=2**63),), data=64), "bytes of tensor 't' are missing"),
        (_file(tensors=(_tensor("t", (1,), kind=99, offset=2**63),), data=64), "bytes of tensor 't' are missing"),
    ],
)
def test_hostile_files(file: Path, content: bytes, message: str) -> None:
    assert message in _error(file, content)


BIG = "\U0001f600" * (MAX_STRING_BYTES // 4)


@pytest.mark.parametrize(
    "pairs",
    [
        [_pair(f"k{number}", STRING, _text(BIG)) for number in range(10)],
        [_pair(f"k{number}", ARRAY, struct.pack("<IQ", I16, 512) + bytes([0, 7]) * 512) for number in range(10_000)],
        [_pair(f"k{number}", ARRAY, struct.pack("<IQ", STRING, 1) + _text("x" * 10**6)) for number in range(40)],
    ],
    ids=["strings", "arrays", "long strings in arrays"],
)
def test_what_is_kept_of_a_header_is_bounded_as_a_whole(file: Path, pairs: list[bytes]) -> None:
    file.write_bytes(_file(*pairs))
    tracemalloc.start()
    try:
        with contextlib.suppress(GgufError):
            read_header(file)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_too_much_metadata_is_refused_by_the_key_that_is_too_much(file: Path) -> None:
    text = [_pair(f"k{number}", STRING, _text(BIG)) for number in range(2)]
    assert "metadata up to 'k1'" in _error(file, _file(*text))
    values = [_pair(f"k{number}", ARRAY, struct.pack("<IQ", U8, 512) + bytes(512)) for number in range(257)]
    assert "metadata up to 'k256'" in _error(file, _file(*values))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(GgufError, match="No such file"):
        read_header(tmp_path / "none.gguf")


def test_a_folder_and_a_pipe_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(GgufError, match="not a file"):
            read_header(path)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A header with 150,000 tokens, their scores, and 150,000 merges."""
    tokens = b"".join(_text(f"token-{number}") for number in range(150_000))
    strings = struct.pack("<IQ", STRING, 150_000) + tokens
    scores = struct.pack("<IQ", 6, 150_000) + bytes(600_000)
    path = tmp_path_factory.mktemp("vocabulary") / "big.gguf"
    path.write_bytes(_file(_pair("tokens", ARRAY, strings), _pair("scores", ARRAY, scores), _pair("m", ARRAY, strings)))
    return path


def test_a_large_vocabulary_costs_neither_time_nor_memory(vocabulary: Path) -> None:
    started = time.process_time()
    header = read_header(vocabulary)
    assert time.process_time() - started < 0.5
    assert header.metadata["tokens"] == ArrayInfo("string", 150_000)
    tracemalloc.start()
    try:
        read_header(vocabulary)
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024**2
    finally:
        tracemalloc.stop()


def test_the_longest_array_that_is_kept(file: Path) -> None:
    def array(length: int) -> bytes:
        return _pair(f"k{length}", ARRAY, struct.pack("<IQ", U8, length) + bytes(length))

    file.write_bytes(_file(array(KEPT_ARRAY_LENGTH), array(KEPT_ARRAY_LENGTH + 1)))
    metadata = read_header(file).metadata
    assert metadata[f"k{KEPT_ARRAY_LENGTH}"] == ArrayInfo("u8", KEPT_ARRAY_LENGTH, (0,) * KEPT_ARRAY_LENGTH)
    assert metadata[f"k{KEPT_ARRAY_LENGTH + 1}"] == ArrayInfo("u8", KEPT_ARRAY_LENGTH + 1)


EDITS = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.one_of(st.binary(min_size=1, max_size=8), st.just(b"\xff" * 8))),
    max_size=6,
)


@given(edits=EDITS, keep=st.floats(0, 1))
def test_a_damaged_file_is_read_or_refused(model: Path, edits: list[tuple[float, bytes]], keep: float) -> None:
    content = bytearray(model.read_bytes())
    for where, piece in edits:
        at = int(where * len(content))
        content[at : at + len(piece)] = piece
    damaged = model.with_name("damaged.gguf")
    damaged.write_bytes(content[: round(keep * len(content))])
    try:
        header = read_header(damaged)
    except GgufError as error:
        assert 0 < len(str(error)) < 2_000  # noqa: PT017  both ends are right; this one must be readable
    else:
        room = header.file_size - header.data_offset
        assert all(0 <= tensor.offset <= tensor.offset + tensor.bytes <= room for tensor in header.tensors)
        assert isinstance(header.is_embedding, bool)
