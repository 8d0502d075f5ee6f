"""Models for the memory benchmark: the right shapes and metadata, zeros for weights.

Tensor and key names are those that llama.cpp's `src/models/*.cpp` ask for. A model says nothing sensible; it takes the
memory that a real one of its shape takes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from scripts.make_demo_models import vocabulary

Shape = tuple[int, ...]
# (name, shape with the contiguous dimension first); one-dimensional tensors stay f32, as in real files.
Tensors = Iterator[tuple[str, Shape]]


@dataclass(frozen=True, slots=True)
class Model:
    """What to make; the numbers mean what GGUF's keys of these names mean."""

    architecture: str
    layers: int = 4
    embd: int = 512
    ff: int = 1024
    heads: int = 8
    kv_heads: int = 2
    vocab: int = 2048
    ctx: int = 8192
    type: str = "F16"
    window: int = 512
    experts: int = 8
    experts_used: int = 2
    rank: int = 256
    tied: bool = False
    head: int = 0  # elements of one head; 0 = embd / heads

    @property
    def head_size(self) -> int:
        return self.head or self.embd // self.heads

    @property
    def name(self) -> str:
        size = f"{self.layers}x{self.embd}-{self.ff}-{self.heads}.{self.kv_heads}.{self.head_size}"
        return f"{self.architecture}-{size}-{self.vocab}-{self.type}{'-tied' if self.tied else ''}"


def _attention(model: Model, block: str) -> Tensors:
    query, kept = model.heads * model.head_size, model.kv_heads * model.head_size
    yield f"{block}.attn_norm.weight", (model.embd,)
    yield f"{block}.attn_q.weight", (model.embd, query)
    yield f"{block}.attn_k.weight", (model.embd, kept)
    yield f"{block}.attn_v.weight", (model.embd, kept)
    yield f"{block}.attn_output.weight", (query, model.embd)


def _feed_forward(model: Model, block: str) -> Tensors:
    yield f"{block}.ffn_norm.weight", (model.embd,)
    yield f"{block}.ffn_gate.weight", (model.embd, model.ff)
    yield f"{block}.ffn_up.weight", (model.embd, model.ff)
    yield f"{block}.ffn_down.weight", (model.ff, model.embd)


def _experts(model: Model, block: str) -> Tensors:
    yield f"{block}.ffn_norm.weight", (model.embd,)
    yield f"{block}.ffn_gate_inp.weight", (model.embd, model.experts)
    yield f"{block}.ffn_gate_exps.weight", (model.embd, model.ff, model.experts)
    yield f"{block}.ffn_up_exps.weight", (model.embd, model.ff, model.experts)
    yield f"{block}.ffn_down_exps.weight", (model.ff, model.embd, model.experts)


def _llama(model: Model, block: str) -> Tensors:
    yield from _attention(model, block)
    yield from _feed_forward(model, block)


def _mixtral(model: Model, block: str) -> Tensors:
    yield from _attention(model, block)
    yield from _experts(model, block)


def _qwen2(model: Model, block: str) -> Tensors:
    yield from _llama(model, block)
    yield f"{block}.attn_q.bias", (model.heads * model.head_size,)
    yield f"{block}.attn_k.bias", (model.kv_heads * model.head_size,)
    yield f"{block}.attn_v.bias", (model.kv_heads * model.head_size,)


def _head_norms(model: Model, block: str) -> Tensors:
    yield f"{block}.attn_q_norm.weight", (model.head_size,)
    yield f"{block}.attn_k_norm.weight", (model.head_size,)


def _qwen3(model: Model, block: str) -> Tensors:
    yield from _llama(model, block)
    yield from _head_norms(model, block)


def _qwen3moe(model: Model, block: str) -> Tensors:
    yield from _mixtral(model, block)
    yield from _head_norms(model, block)


def _gemma2(model: Model, block: str) -> Tensors:
    yield from _llama(model, block)
    yield f"{block}.post_attention_norm.weight", (model.embd,)
    yield f"{block}.post_ffw_norm.weight", (model.embd,)


def _gemma3(model: Model, block: str) -> Tensors:
    yield from _gemma2(model, block)
    yield from _head_norms(model, block)


def _gpt_oss(model: Model, block: str) -> Tensors:
    query, kept = model.heads * model.head_size, model.kv_heads * model.head_size
    yield from _attention(model, block)
    for name, width in (("attn_q", query), ("attn_k", kept), ("attn_v", kept), ("attn_output", model.embd)):
        yield f"{block}.{name}.bias", (width,)
    yield f"{block}.attn_sinks.weight", (model.heads,)
    yield f"{block}.post_attention_norm.weight", (model.embd,)
    yield from (pair for pair in _experts(model, block) if not pair[0].endswith("ffn_norm.weight"))
    yield f"{block}.ffn_gate_inp.bias", (model.experts,)
    for name, width in (("ffn_gate_exps", model.ff), ("ffn_up_exps", model.ff), ("ffn_down_exps", model.embd)):
        yield f"{block}.{name}.bias", (width, model.experts)


def _phi3(model: Model, block: str) -> Tensors:
    query, kept = model.heads * model.head_size, model.kv_heads * model.head_size
    yield f"{block}.attn_norm.weight", (model.embd,)
    yield f"{block}.attn_qkv.weight", (model.embd, query + 2 * kept)
    yield f"{block}.attn_output.weight", (query, model.embd)
    yield f"{block}.ffn_norm.weight", (model.embd,)
    yield f"{block}.ffn_up.weight", (model.embd, 2 * model.ff)
    yield f"{block}.ffn_down.weight", (model.ff, model.embd)


def _bert(model: Model, block: str) -> Tensors:
    for name, rows, columns in (
        ("attn_q", model.embd, model.embd),
        ("attn_k", model.embd, model.embd),
        ("attn_v", model.embd, model.embd),
        ("attn_output", model.embd, model.embd),
        ("ffn_up", model.embd, model.ff),
        ("ffn_down", model.ff, model.embd),
    ):
        yield f"{block}.{name}.weight", (rows, columns)
        yield f"{block}.{name}.bias", (columns,)
    for name in ("attn_output_norm", "layer_output_norm"):
        yield f"{block}.{name}.weight", (model.embd,)
        yield f"{block}.{name}.bias", (model.embd,)


def _deepseek2(model: Model, block: str) -> Tensors:
    rope, plain = _ROPE, model.head_size
    yield f"{block}.attn_norm.weight", (model.embd,)
    yield f"{block}.attn_q_a.weight", (model.embd, 2 * model.rank)
    yield f"{block}.attn_q_a_norm.weight", (2 * model.rank,)
    yield f"{block}.attn_q_b.weight", (2 * model.rank, model.heads * (plain + rope))
    yield f"{block}.attn_kv_a_mqa.weight", (model.embd, model.rank + rope)
    yield f"{block}.attn_kv_a_norm.weight", (model.rank,)
    yield f"{block}.attn_k_b.weight", (plain, model.rank, model.heads)
    yield f"{block}.attn_v_b.weight", (model.rank, plain, model.heads)
    yield f"{block}.attn_output.weight", (model.heads * plain, model.embd)
    if block == "blk.0":
        yield from _feed_forward(model, block)
        return
    yield from _experts(model, block)
    yield f"{block}.ffn_gate_shexp.weight", (model.embd, model.ff)
    yield f"{block}.ffn_up_shexp.weight", (model.embd, model.ff)
    yield f"{block}.ffn_down_shexp.weight", (model.ff, model.embd)


def _mamba(model: Model, block: str) -> Tensors:
    inner, step = 2 * model.embd, model.embd // 16
    yield f"{block}.attn_norm.weight", (model.embd,)
    yield f"{block}.ssm_in.weight", (model.embd, 2 * inner)
    yield f"{block}.ssm_conv1d.weight", (_KERNEL, inner)
    yield f"{block}.ssm_conv1d.bias", (inner,)
    yield f"{block}.ssm_x.weight", (inner, step + 2 * _STATE)
    yield f"{block}.ssm_dt.weight", (step, inner)
    yield f"{block}.ssm_dt.bias", (inner,)
    yield f"{block}.ssm_a", (_STATE, inner)
    yield f"{block}.ssm_d", (inner,)
    yield f"{block}.ssm_out.weight", (inner, model.embd)


def _qwen35(model: Model, block: str) -> Tensors:
    yield f"{block}.attn_norm.weight", (model.embd,)
    yield f"{block}.post_attention_norm.weight", (model.embd,)
    if int(block.removeprefix("blk.")) % 4 == 3:
        query, kept = model.heads * model.head_size, model.kv_heads * model.head_size
        yield f"{block}.attn_q.weight", (model.embd, 2 * query)
        yield f"{block}.attn_k.weight", (model.embd, kept)
        yield f"{block}.attn_v.weight", (model.embd, kept)
        yield f"{block}.attn_output.weight", (query, model.embd)
        yield from _head_norms(model, block)
    else:
        inner, keys, heads = 2 * model.embd, 2 * _DELTA_STATE, 2 * model.embd // _DELTA_STATE
        yield f"{block}.attn_qkv.weight", (model.embd, 2 * keys + inner)
        yield f"{block}.attn_gate.weight", (model.embd, inner)
        yield f"{block}.ssm_conv1d.weight", (_KERNEL, 2 * keys + inner)
        yield f"{block}.ssm_dt.bias", (heads,)
        yield f"{block}.ssm_a", (heads,)
        yield f"{block}.ssm_beta.weight", (model.embd, heads)
        yield f"{block}.ssm_alpha.weight", (model.embd, heads)
        yield f"{block}.ssm_norm.weight", (_DELTA_STATE,)
        yield f"{block}.ssm_out.weight", (inner, model.embd)
    yield f"{block}.ffn_gate.weight", (model.embd, model.ff)
    yield f"{block}.ffn_up.weight", (model.embd, model.ff)
    yield f"{block}.ffn_down.weight", (model.ff, model.embd)


_DELTA_STATE = 64
_ROPE, _KERNEL, _STATE = 64, 4, 16
_BLOCKS: dict[str, Callable[[Model, str], Tensors]] = {
    "llama": _llama,
    "mixtral": _mixtral,  # a llama with experts
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3moe": _qwen3moe,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "gpt-oss": _gpt_oss,
    "phi3": _phi3,
    "qwen35": _qwen35,
    "bert": _bert,
    "deepseek2": _deepseek2,
    "mamba": _mamba,
}


def tensors(model: Model) -> Tensors:
    """All tensors of a model."""
    yield "token_embd.weight", (model.embd, model.vocab)
    if model.architecture == "bert":
        yield "position_embd.weight", (model.embd, model.ctx)
        yield "token_embd_norm.weight", (model.embd,)
        yield "token_embd_norm.bias", (model.embd,)
    else:
        yield "output_norm.weight", (model.embd,)
        if not model.tied and model.architecture != "gemma2":  # which is always tied
            yield "output.weight", (model.embd, model.vocab)
    for layer in range(model.layers):
        yield from _BLOCKS[model.architecture](model, f"blk.{layer}")


def write(model: Model, folder: Path) -> Path:
    """Write a model unless it is there."""
    path = folder / f"{model.name}.gguf"
    if path.is_file():
        return path
    architecture = "llama" if model.architecture == "mixtral" else model.architecture
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with closing(gguf.GGUFWriter(temporary, architecture)) as writer:
        for key, value in _metadata(model).items():
            _put(writer, f"{architecture}.{key}", value)
        _tokenizer(writer, model.vocab)
        writer.add_token_type_count(2)
        for name, shape in tensors(model):
            _zeros(writer, name, shape, model.type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    temporary.replace(path)
    return path


def _metadata(model: Model) -> dict[str, Any]:
    found: dict[str, Any] = {
        "context_length": model.ctx,
        "embedding_length": model.embd,
        "block_count": model.layers,
        "feed_forward_length": model.ff,
        "attention.head_count": model.heads,
        "attention.head_count_kv": model.kv_heads,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": model.head_size,
        "attention.key_length": model.head_size,
        "attention.value_length": model.head_size,
    }
    if model.architecture in ("mixtral", "qwen3moe", "deepseek2", "gpt-oss"):
        found |= {"expert_count": model.experts, "expert_used_count": model.experts_used}
        found |= {"expert_feed_forward_length": model.ff}
    if model.architecture in ("gemma2", "gemma3", "gpt-oss"):
        found["attention.sliding_window"] = model.window
    if model.architecture == "bert":
        found |= {"attention.layer_norm_epsilon": 1e-5, "attention.causal": False, "pooling_type": 1}
    if model.architecture == "deepseek2":
        found |= {"attention.head_count_kv": 1, "attention.kv_lora_rank": model.rank, "leading_dense_block_count": 1,
                  "attention.q_lora_rank": 2 * model.rank, "expert_shared_count": 1, "rope.dimension_count": _ROPE,
                  "attention.key_length": model.rank + _ROPE, "attention.value_length": model.rank,
                  "attention.key_length_mla": model.head_size + _ROPE,
                  "attention.value_length_mla": model.head_size}  # fmt: skip
    if model.architecture == "qwen35":
        found |= {"ssm.conv_kernel": _KERNEL, "ssm.inner_size": 2 * model.embd, "ssm.state_size": _DELTA_STATE,
                  "ssm.time_step_rank": 2 * model.embd // _DELTA_STATE, "ssm.group_count": 2,
                  "rope.dimension_sections": [8, 8, 8, 0]}  # fmt: skip
    if model.architecture == "mamba":
        found |= {"ssm.conv_kernel": _KERNEL, "ssm.inner_size": 2 * model.embd, "ssm.state_size": _STATE,
                  "ssm.time_step_rank": model.embd // 16, "attention.head_count": 0,
                  "attention.head_count_kv": 0}  # fmt: skip
    return found


def _put(writer: gguf.GGUFWriter, key: str, value: bool | float | list[int]) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    else:
        writer.add_float32(key, value)


def _tokenizer(writer: gguf.GGUFWriter, size: int) -> None:
    words = vocabulary()
    texts = [*words.texts, *(f"\u2581w{index}" for index in range(size - len(words.texts)))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text.encode() for text in texts])
    writer.add_token_scores([0.0] * len(texts))
    writer.add_token_types([*words.types, *[int(gguf.TokenType.NORMAL)] * (size - len(words.types))])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def _zeros(writer: gguf.GGUFWriter, name: str, shape: Shape, kind: str) -> None:
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    dense = len(shape) > 1 and not name.endswith(("ssm_a", "ssm_conv1d.weight", "ffn_gate_inp.weight", ".bias"))
    if not dense or shape[0] % block:
        writer.add_tensor(name, np.zeros(shape[::-1], dtype=np.float32))
        return
    rows = (*shape[:0:-1], shape[0] // block * size)
    writer.add_tensor(name, np.zeros(rows, dtype=np.uint8), raw_dtype=gguf.GGMLQuantizationType[kind])
