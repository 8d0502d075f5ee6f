"""What a GGUF header says about the computation: layers, heads, windows, states.

Source: llama.cpp b11434, `src/llama-model.cpp` (`load_hparams`), `src/llama-hparams.cpp`, `src/models/*.cpp`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

MAX_LAYERS = 512  # llama.cpp's own LLAMA_MAX_LAYERS
MAX_WIDTH = 1 << 24
MAX_EXPERTS_USED = 128


class StoredTensor(Protocol):
    """A tensor in a file.

    Its name, its elements per dimension (the contiguous one first), ggml's type, where it begins in the data section,
    and how many bytes it has there.
    """

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def type(self) -> str: ...
    @property
    def offset(self) -> int: ...
    @property
    def bytes(self) -> int: ...


# Every how many layers one sees the whole context where the file does not say, and whether the first one does.
# Source: the calls of `load_swa_pattern` in `src/models/*.cpp`.
_PATTERNS: Mapping[str, tuple[int, bool]] = {
    "afmoe": (4, False),
    "cohere2": (4, False),
    "cohere2moe": (4, True),
    "exaone-moe": (4, False),
    "exaone4": (4, False),
    "gemma-embedding": (6, False),
    "gemma2": (2, False),
    "gemma3": (6, False),
    "gemma3n": (5, False),
    "gpt-oss": (2, False),
    "laguna": (4, True),
    "llama4": (4, False),
    "mellum": (4, False),
    "modern-bert": (3, True),
    "muse-glimmer": (4, False),
    "olmo2": (4, False),
    "plamo3": (8, False),
    "smallthinker": (4, True),
}
_DEFAULT_WINDOWS = {"gemma2": 4096, "exaone4": 4096, "exaone-moe": 128, "llama4": 8192, "smallthinker": 4096}
# Source: `llama_arch_is_recurrent`, `llm_arch_is_hybrid` and the filters of `llama_model::create_memory`.
_RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
_INTERVAL = frozenset({"qwen3next", "qwen35", "qwen35moe", "qwen4exp"})
_BY_HEADS = frozenset(
    {"jamba", "plamo2", "granitehybrid", "lfm2", "lfm2moe", "nemotron_h", "nemotron_h_moe", "kimi-linear"}
)
_BOTH = frozenset({"falcon-h1"})
# Encoders and diffusion models keep no cache (`create_memory` returns nothing for them).
_NO_CACHE = frozenset({"neo-bert", "eurobert", "gemma-embedding", "dream", "llada", "llada-moe", "rnd1", "t5encoder"})


@dataclass(frozen=True, slots=True)
class Layer:
    """One block.

    Attributes:
        heads, kv_heads: attention heads, and those of keys and values; 0 where it has none.
        head_k, head_v: elements of one head.
        windowed: it sees `Shape.window` tokens only.
        attends, recurrent: it keeps keys and values; it keeps a state per sequence. Some do both.
        tensors: its weights' shapes by name, without the `blk.N.` in front and with `.weight` or `.bias`.
    """

    heads: int
    kv_heads: int
    head_k: int
    head_v: int
    windowed: bool = False
    attends: bool = True
    recurrent: bool = False
    tensors: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        return name in self.tensors

    def width(self, name: str) -> int:
        """How many elements a matrix puts out per token; 0 if there is no such matrix."""
        shape = self.tensors.get(name, ())
        return shape[1] if len(shape) > 1 else 0


@dataclass(frozen=True, slots=True)
class Shape:
    """A model as far as its memory is concerned.

    Attributes:
        embd, vocab, train_ctx: elements of the hidden state, tokens of the vocabulary, context it was trained for.
        experts, experts_used: of a mixture; 0 for a dense one.
        window: tokens that windowed layers see.
        mla_rank: elements of the compressed key of multi-head latent attention, 0 without; `mla_value` those of a
            head once unpacked.
        state_r, state_s: elements that a recurrent layer keeps per sequence (`llama_hparams::n_embd_r`, `n_embd_s`).
        caches: whether anything is kept from one token to the next.
        pooling: llama.cpp's `enum llama_pooling_type`, 0 = none.
        soft_cap, final_cap: scores or logits are squashed.
        nextn: layers at the end that only predict further tokens.
    """

    architecture: str
    embd: int
    vocab: int
    train_ctx: int
    layers: tuple[Layer, ...]
    experts: int = 0
    experts_used: int = 0
    window: int = 0
    mla_rank: int = 0
    mla_value: int = 0
    mla_rope: int = 0
    state_r: int = 0
    state_s: int = 0
    inner: int = 0
    caches: bool = True
    causal: bool = True
    pooling: int = 0
    soft_cap: bool = False
    final_cap: bool = False
    nextn: int = 0

    @property
    def trunk(self) -> tuple[Layer, ...]:
        """The layers that are computed."""
        return self.layers[: len(self.layers) - self.nextn]


def read_shape(metadata: Mapping[str, object], tensors: Sequence[StoredTensor]) -> Shape:
    """The shape of a model from the header of its file (of a split one: the first file's metadata, all tensors).

    Raises ValueError naming the key without which, or with which, nothing can be said.
    """
    keys = _Keys(metadata)
    arch = keys.architecture
    count = keys.needed("block_count")
    embd = keys.needed("embedding_length")
    blocks = _blocks(tensors, count)
    token_embd = next((tensor.shape for tensor in tensors if tensor.name == "token_embd.weight"), (embd, 0))
    mla_rank = keys.number("attention.kv_lora_rank") if keys.number("attention.key_length_mla") else 0
    state_r, state_s = _states(keys, embd)
    return Shape(
        architecture=arch,
        embd=embd,
        vocab=token_embd[1] if len(token_embd) > 1 else 0,
        train_ctx=keys.number("context_length"),
        layers=tuple(_layer(keys, index, count, embd, blocks[index]) for index in range(count)),
        experts=keys.number("expert_count"),
        experts_used=keys.bounded("expert_used_count", MAX_EXPERTS_USED),
        window=keys.number("attention.sliding_window") or _DEFAULT_WINDOWS.get(arch, 0),
        mla_rank=mla_rank,
        mla_value=keys.number("attention.value_length_mla"),
        mla_rope=keys.number("rope.dimension_count"),
        state_r=state_r,
        state_s=state_s,
        inner=keys.number("ssm.inner_size"),
        caches="bert" not in arch and arch not in _NO_CACHE,
        causal=keys.flag("attention.causal", default="bert" not in arch),
        pooling=keys.number("pooling_type"),
        soft_cap=arch == "gemma2",
        final_cap=arch == "gemma2" or keys.number("final_logit_softcapping") > 0,
        nextn=min(keys.number("nextn_predict_layers"), count - 1),
    )


def _layer(keys: _Keys, index: int, count: int, embd: int, tensors: Mapping[str, tuple[int, ...]]) -> Layer:
    arch = keys.architecture
    heads = keys.number("attention.head_count", index)
    kv_heads = keys.number("attention.head_count_kv", index, default=heads)
    windowed = _windowed(keys, index, count)
    common = embd // heads if heads else embd // max(1, keys.largest("attention.head_count"))
    head_k = keys.number("attention.key_length", default=common)
    head_v = keys.number("attention.value_length", default=common)
    if windowed:
        head_k = keys.number("attention.key_length_swa", default=head_k)
        head_v = keys.number("attention.value_length_swa", default=head_v)
    recurrent = _recurrent(keys, index, kv_heads)
    shares = keys.number("attention.shared_kv_layers") or (max(0, count - 20) if arch == "gemma3n" else 0)
    attends = (not recurrent or arch in _BOTH) and kv_heads > 0 and index < count - shares
    return Layer(heads, kv_heads, head_k, head_v, windowed, attends, recurrent, tensors)


def _windowed(keys: _Keys, index: int, count: int) -> bool:
    """Source: `llama_model_base::load_swa_pattern`, `llama_hparams::set_swa_pattern`."""
    arch = keys.architecture
    pattern = keys.value("attention.sliding_window_pattern")
    values = getattr(pattern, "values", ())
    if not keys.number("attention.sliding_window") and arch not in _DEFAULT_WINDOWS:
        return False
    if len(values) >= count:
        return bool(values[index])
    if arch not in _PATTERNS:
        return False
    period, dense_first = _PATTERNS[arch]
    if isinstance(pattern, int) and not isinstance(pattern, bool):
        period = pattern
    if not period:
        return True
    return index % period != 0 if dense_first else index % period < period - 1


def _recurrent(keys: _Keys, index: int, kv_heads: int) -> bool:
    arch = keys.architecture
    if arch in _RECURRENT or arch in _BOTH:
        return True
    listed = getattr(keys.value("attention.recurrent_layers"), "values", ())
    if index < len(listed):
        return bool(listed[index])
    if arch in _INTERVAL:
        return (index + 1) % max(1, keys.number("full_attention_interval", default=4)) != 0
    return arch in _BY_HEADS and kv_heads == 0 and (
        not arch.startswith("nemotron") or not keys.number("feed_forward_length", index)
    )  # fmt: skip


def _states(keys: _Keys, embd: int) -> tuple[int, int]:
    """Elements of the two states of a recurrent layer. Source: `llama_hparams::n_embd_r`, `n_embd_s`."""
    wkv = keys.number("wkv.head_size")
    if wkv:
        return keys.number("token_shift_count", default=2) * embd, embd * wkv
    convolution = keys.number("shortconv.l_cache")
    if convolution:
        return embd * (convolution - 1), 0
    kernel = keys.number("ssm.conv_kernel")
    kda = keys.number("kda.head_dim")
    if kda:
        heads = keys.largest("attention.head_count")
        return 3 * (kernel - 1 if kernel else 3) * heads * kda, kda * kda * heads
    inner, state = keys.number("ssm.inner_size"), keys.number("ssm.state_size")
    return max(0, kernel - 1) * (inner + 2 * keys.number("ssm.group_count") * state), state * inner


def _blocks(tensors: Sequence[StoredTensor], count: int) -> list[dict[str, tuple[int, ...]]]:
    blocks: list[dict[str, tuple[int, ...]]] = [{} for _ in range(count)]
    for tensor in tensors:
        block, name = split_name(tensor.name)
        if block is not None and block < count:
            blocks[block][name] = tensor.shape
    return blocks


def split_name(name: str) -> tuple[int | None, str]:
    """`blk.3.attn_q.weight` -> (3, `attn_q.weight`); other names belong to no block."""
    if name.startswith("blk."):
        number, _, rest = name[4:].partition(".")
        if number.isdecimal() and len(number) < 6:
            return int(number), rest
    return None, name


class _Keys:
    """Metadata below the architecture's own prefix."""

    def __init__(self, metadata: Mapping[str, object]) -> None:
        architecture = metadata.get("general.architecture")
        if not isinstance(architecture, str) or not architecture:
            raise ValueError("general.architecture is missing")
        self.architecture = architecture
        self._metadata = metadata

    def value(self, key: str) -> object:
        return self._metadata.get(f"{self.architecture}.{key}")

    def number(self, key: str, index: int = 0, *, default: int = 0) -> int:
        """A count, of this layer where the file gives one for each."""
        value = self.value(key)
        values = getattr(value, "values", None)
        if values is not None:
            value = values[index] if index < len(values) else None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return default
        return int(value) if 0 <= value < 1 << 40 else default

    def needed(self, key: str) -> int:
        found = self.number(key)
        if not found:
            raise ValueError(f"{self.architecture}.{key} is {self.value(key)!r}")
        return self.bounded(key, MAX_LAYERS if key == "block_count" else MAX_WIDTH)

    def bounded(self, key: str, limit: int) -> int:
        """A count that decides how long the arithmetic takes."""
        found = self.number(key)
        if found > limit:
            raise ValueError(f"{self.architecture}.{key} is {found:,}; at most {limit:,} can be")
        return found

    def largest(self, key: str) -> int:
        """The highest of all layers."""
        values = getattr(self.value(key), "values", (0,))
        return max((self.number(key, index) for index in range(len(values))), default=0)

    def flag(self, key: str, *, default: bool) -> bool:
        value = self.value(key)
        return value if isinstance(value, bool) else default
