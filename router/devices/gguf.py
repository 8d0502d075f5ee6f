"""GGUF headers: what a model file says about itself, read without trusting it.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; the checks follow llama.cpp's `gguf.cpp`.
Vocabularies are skipped and not kept, every count and length is bounded, and a file that is cut or made up ends in a
GgufError. Nothing is mapped: a file that shrinks while it is read must not end in a SIGBUS.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from router.devices.ggml_types import GGML_TYPES
from router.devices.gguf_reader import Malformed, Reader

MAX_KEYS = 16_384
MAX_TENSORS = 16_384  # the largest real models have some thousand
MAX_KEY_BYTES = 1024
MAX_STRING_BYTES = 4 * 1024**2
MAX_NAME_BYTES = 64  # of a tensor: ggml's GGML_MAX_NAME
MAX_DIMS = 4
KEPT_ARRAY_LENGTH = 512  # per-layer values are kept (some models have 160 layers), vocabularies are not
MAX_KEPT_TEXT_BYTES = 6 * 1024**2  # of all strings together; four times as many in memory at worst
MAX_KEPT_VALUES = 131_072  # of all arrays together; some 36 bytes each in memory
DEFAULT_ALIGNMENT = 32

_MOST_ELEMENTS = 2**63 - 1
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TYPE_NAMES = ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64")
_STRING, _ARRAY = 8, 9
_POOLING_NONE, _POOLING_RANK = 0, 4  # llama.h, enum llama_pooling_type
# Architectures of llama.cpp that only embed (llama-arch.cpp), besides those with "bert" in their name.
_ENCODERS = frozenset({"gemma-embedding", "llama-embed", "t5encoder"})


class GgufError(Exception):
    """The file cannot be read as GGUF; the message names the file and is for people."""


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """An array of the metadata. `values` holds the items of a short array of scalars, else nothing."""

    type: str
    length: int
    values: tuple[bool | int | float, ...] = ()


Value = bool | int | float | str | ArrayInfo


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor.

    Attributes:
        shape: elements per dimension, the contiguous one first (ggml's order).
        type: ggml's name, e.g. `Q4_K`; `type 99` when newer than this reader.
        offset: bytes from the start of the data section.
        bytes: size in the file; for a type unknown here, the distance to the next tensor.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    bytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What stands before the weights of one file (of a split model: of one shard)."""

    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    alignment: int
    file_size: int

    @property
    def architecture(self) -> str:
        """E.g. `llama`; empty when the file does not say."""
        return self._text("general.architecture")

    @property
    def name(self) -> str:
        return self._text("general.name")

    @property
    def context_length(self) -> int | None:
        """Tokens it was trained for."""
        return self._count(f"{self.architecture}.context_length")

    @property
    def block_count(self) -> int | None:
        """Layers."""
        return self._count(f"{self.architecture}.block_count")

    @property
    def pooling_type(self) -> int | None:
        """llama.cpp's `enum llama_pooling_type`; None when the file does not say."""
        return self._count(f"{self.architecture}.pooling_type")

    @property
    def is_embedding(self) -> bool:
        """Made for embeddings or reranking: an encoder, or it says how to pool."""
        encoder = "bert" in self.architecture or self.architecture in _ENCODERS
        return encoder or self.pooling_type not in {None, _POOLING_NONE}

    @property
    def is_reranker(self) -> bool:
        return self.pooling_type == _POOLING_RANK

    @property
    def has_chat_template(self) -> bool:
        return bool(self._text("tokenizer.chat_template"))

    @property
    def split_count(self) -> int:
        """Files that the model consists of."""
        return self._count("split.count") or 1

    @property
    def split_no(self) -> int:
        """Which of them this is, from 0."""
        return self._count("split.no") or 0

    @property
    def weights_bytes(self) -> int:
        """Bytes of all tensors in this file, without padding."""
        return sum(tensor.bytes for tensor in self.tensors)

    def _text(self, key: str) -> str:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else ""

    def _count(self, key: str) -> int | None:
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def read_header(path: Path) -> GgufHeader:
    """Read and check the header of one file. Blocking: tens of milliseconds for a large vocabulary.

    Raises:
        GgufError: missing, unreadable, not GGUF, cut short, or with figures that cannot be.
    """
    try:
        size = _regular_size(path)
        with path.open("rb") as file:
            return _Parser(Reader(file, size)).header()
    except OSError as error:
        raise GgufError(f"{path}: {error.strerror or error}") from error
    except Malformed as error:
        raise GgufError(f"{path}: {error}") from None


def _regular_size(path: Path) -> int:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for a writer
        raise Malformed("not a file")
    return status.st_size


@dataclass(slots=True)
class _Parser:
    """One pass over the header."""

    reader: Reader
    metadata: dict[str, Value] = field(default_factory=dict)
    kept_text: int = 0
    kept_values: int = 0

    def header(self) -> GgufHeader:
        version = self._version()
        tensor_count = self._bounded("tensors", MAX_TENSORS)
        for _ in range(self._bounded("metadata keys", MAX_KEYS)):
            self._pair()
        alignment = self._alignment()
        raw = self._raw_tensors(tensor_count)
        position, size = self.reader.position, self.reader.size
        # A file without tensors may end before the padding.
        data_offset = min(position + -position % alignment, size)
        tensors = _sized(raw, size - data_offset, alignment)
        return GgufHeader(version, self.metadata, tensors, data_offset, alignment, size)

    def _version(self) -> int:
        if self.reader.size < 4 or self.reader.bytes(4) != b"GGUF":
            raise Malformed("not a GGUF file (it does not begin with `GGUF`)")
        version = self.reader.number("I")
        if version & 0xFFFF == 0:
            raise Malformed("a big-endian GGUF file; convert it with gguf-py's gguf_convert_endian")
        if version not in {2, 3}:
            raise Malformed(f"GGUF version {version}; versions 2 and 3 can be read")
        return version

    def _bounded(self, what: str, limit: int) -> int:
        count = self.reader.number("Q")
        if count > limit:
            raise Malformed(f"announces {count:,} {what}; at most {limit:,} are allowed")
        return count

    def _pair(self) -> None:
        key = self.reader.string(MAX_KEY_BYTES, "a metadata key")
        if not key or key in self.metadata:
            raise Malformed(f"metadata key {key!r} stands there twice" if key else "a metadata key is empty")
        self.reader.where = f"the value of {key!r}"
        kind = self.reader.number("I")
        if kind == _ARRAY:
            self.metadata[key] = self._array(key)
        elif kind == _STRING:
            before = self.reader.position
            self.metadata[key] = self.reader.string(MAX_STRING_BYTES, f"the value of {key!r}")
            self.kept_text = self._within(self.kept_text + self.reader.position - before, MAX_KEPT_TEXT_BYTES, key)
        else:
            self.metadata[key] = self._scalars(key, kind, 1)[0]

    def _array(self, key: str) -> ArrayInfo:
        kind, length = self.reader.number("I"), self.reader.number("Q")
        if kind == _STRING:
            self.reader.skip_strings(length)
            return ArrayInfo("string", length)
        if length <= KEPT_ARRAY_LENGTH:
            self.kept_values = self._within(self.kept_values + length, MAX_KEPT_VALUES, key)
            values = self._scalars(key, kind, length)
            return ArrayInfo(_TYPE_NAMES[kind], length, values)
        self.reader.skip(length * struct.calcsize(_code(key, kind)))
        return ArrayInfo(_TYPE_NAMES[kind], length)

    @staticmethod
    def _within(kept: int, limit: int, key: str) -> int:
        if kept > limit:
            raise Malformed(f"its metadata up to {key!r} takes {kept:,}; at most {limit:,} are kept of a header")
        return kept

    def _scalars(self, key: str, kind: int, count: int) -> tuple[bool | int | float, ...]:
        code = f"<{count}{_code(key, kind)}"
        return struct.unpack(code, self.reader.bytes(struct.calcsize(code)))

    def _alignment(self) -> int:
        value = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1 or value & (value - 1):
            raise Malformed(f"general.alignment is {value!r}; it must be a power of two")
        return value

    def _raw_tensors(self, count: int) -> list[_RawTensor]:
        self.reader.where = "the table of tensors"
        tensors = [self._raw_tensor() for _ in range(count)]
        if len({tensor.name for tensor in tensors}) != count:
            raise Malformed("two tensors have the same name")
        return tensors

    def _raw_tensor(self) -> _RawTensor:
        name = self.reader.string(MAX_NAME_BYTES - 1, "a tensor's name")
        dims = self.reader.number("I")
        if dims > MAX_DIMS:
            raise Malformed(f"tensor {name!r} has {dims:,} dimensions; at most {MAX_DIMS} are allowed")
        shape = struct.unpack(f"<{dims}q", self.reader.bytes(8 * dims))
        if any(length < 0 for length in shape) or prod(shape) > _MOST_ELEMENTS:
            raise Malformed(f"tensor {name!r} cannot have the shape {shape}")
        return _RawTensor(name, shape, self.reader.number("I"), self.reader.number("Q"))


@dataclass(frozen=True, slots=True)
class _RawTensor:
    name: str
    shape: tuple[int, ...]
    type: int
    offset: int


def _code(key: str, kind: int) -> str:
    """The struct code of a scalar type."""
    try:
        return _SCALARS[kind]
    except KeyError:
        raise Malformed(f"the value of {key!r} has the unknown type {kind}") from None


def _sized(raw: list[_RawTensor], room: int, alignment: int) -> tuple[TensorInfo, ...]:
    """Add names of types and sizes; check that every tensor lies in the data section of `room` bytes."""
    offsets = sorted({tensor.offset for tensor in raw})
    next_offset = dict(zip(offsets, [*offsets[1:], room], strict=True)) if offsets else {}
    tensors = []
    for tensor in raw:
        known = GGML_TYPES.get(tensor.type)
        size = _tensor_bytes(tensor) if known else max(0, next_offset[tensor.offset] - tensor.offset)
        if tensor.offset % alignment:
            raise Malformed(f"tensor {tensor.name!r} stands at {tensor.offset:,}, not at a multiple of {alignment:,}")
        if tensor.offset + size > room:
            short = tensor.offset + size - room
            raise Malformed(f"cut short: {short:,} bytes of tensor {tensor.name!r} are missing; download it again")
        type_name = known.name if known else f"type {tensor.type}"
        tensors.append(TensorInfo(tensor.name, tensor.shape, type_name, tensor.offset, size))
    together = sum(tensor.bytes for tensor in tensors)
    if together > room:
        raise Malformed(f"its tensors overlap: they have {together:,} bytes, and there are {room:,}")
    return tuple(tensors)


def _tensor_bytes(tensor: _RawTensor) -> int:
    kind = GGML_TYPES[tensor.type]
    row = tensor.shape[0] if tensor.shape else 1
    if row % kind.block:
        raise Malformed(f"tensor {tensor.name!r} has rows of {row:,}, not a multiple of {kind.name}'s {kind.block}")
    return prod(tensor.shape) // kind.block * kind.bytes
