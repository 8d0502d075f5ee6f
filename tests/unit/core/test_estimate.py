"""What a model will take, from its header: against figures that llama.cpp b11434 itself reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import thread_time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.core.estimate import Part, project, read_run, read_shape
from router.core.estimate.graph import Arena, Graph

MIB = 1024**2


@dataclass(frozen=True)
class Stored:
    name: str
    shape: tuple[int, ...]
    offset: int = 0
    type: str = "F16"

    @property
    def bytes(self) -> int:
        size = 2
        for length in self.shape:
            size *= length
        return size


@dataclass(frozen=True)
class Array:
    values: tuple[Any, ...]


def metadata(architecture: str = "llama", **own: Any) -> dict[str, object]:
    known: dict[str, Any] = {
        "block_count": 2,
        "context_length": 8192,
        "embedding_length": 512,
        "feed_forward_length": 1024,
        "attention.head_count": 8,
        "attention.head_count_kv": 2,
    }
    known |= {key.replace("__", "."): value for key, value in own.items()}
    return {"general.architecture": architecture} | {f"{architecture}.{key}": value for key, value in known.items()}


def tensors(layers: int = 2, *, embd: int = 512, ff: int = 1024, kv: int = 128, vocab: int = 356) -> list[Stored]:
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm": (embd,),
        "attn_q": (embd, embd),
        "attn_k": (embd, kv),
        "attn_v": (embd, kv),
        "attn_output": (embd, embd),
        "ffn_norm": (embd,),
        "ffn_gate": (embd, ff),
        "ffn_up": (embd, ff),
        "ffn_down": (ff, embd),
    }
    blocks = [Stored(f"blk.{n}.{name}.weight", shape) for n in range(layers) for name, shape in shapes.items()]
    ends = [Stored("token_embd.weight", (embd, vocab)), Stored("output.weight", (embd, vocab))]
    return _laid_out([*ends, Stored("output_norm.weight", (embd,)), *blocks])


def _laid_out(found: list[Stored]) -> list[Stored]:
    placed, at = [], 0
    for tensor in found:
        placed.append(Stored(tensor.name, tensor.shape, at, tensor.type))
        at += tensor.bytes
    return placed


def host(flags: str, *, keys: Mapping[str, object] | None = None, stored: list[Stored] | None = None) -> Part:
    found = tensors() if stored is None else stored
    return project(
        [found], read_shape(metadata() if keys is None else keys, found), read_run(flags.split(), slots=0)
    ).host


@pytest.mark.parametrize(
    ("flags", "cache", "compute"),
    [
        ("-np 1 -c 256", 0.25, 4.63),
        ("-np 1 -c 8192", 8.00, 17.02),
        ("-np 1 -c 8192 -fa off", 8.00, 150.51),
        ("-np 4 -c 8192 -ctk q8_0 -ctv q8_0", 4.25, 13.05),
        ("-np 3 -c 4096 -kvu", 4.00, 13.04),
    ],
)
def test_a_llama_of_two_layers(flags: str, cache: float, compute: float) -> None:
    part = host(flags)
    assert part.cache / MIB == pytest.approx(cache, abs=0.005)
    assert part.compute / MIB == pytest.approx(compute, abs=0.006)


@pytest.mark.parametrize(("layers", "ff", "compute"), [(4, 1024, 19.02), (2, 2048, 25.02), (2, 4096, 37.02)])
def test_depth_and_width(layers: int, ff: int, compute: float) -> None:
    part = host("-np 1 -c 8192", keys=metadata(block_count=layers), stored=tensors(layers, ff=ff))
    assert part.compute / MIB == pytest.approx(compute, abs=0.006)


def test_windowed_layers_keep_their_window_only() -> None:
    keys = metadata("gemma3", block_count=6, attention__sliding_window=512)
    whole, windows = 8192, 1024  # 512 of the window and 512 of a batch
    part = host("-np 1 -c 8192", keys=keys, stored=tensors(6))
    assert part.cache == 2 * 2 * 128 * (whole + 5 * windows)
    assert host("-np 1 -c 8192 --swa-full", keys=keys, stored=tensors(6)).cache == 2 * 2 * 128 * 6 * whole


def test_a_pattern_in_the_file_counts_more_than_the_architectures() -> None:
    pattern = Array((True, False, False, False, False, False))
    keys = metadata("gemma3", block_count=6, attention__sliding_window=512, attention__sliding_window_pattern=pattern)
    assert host("-np 1 -c 8192", keys=keys, stored=tensors(6)).cache == 2 * 2 * 128 * (5 * 8192 + 1024)


def test_latent_attention_keeps_one_compressed_key() -> None:
    keys = metadata("deepseek2", attention__head_count_kv=1, attention__kv_lora_rank=512, attention__key_length=576,
                    attention__key_length_mla=192, attention__value_length_mla=128,
                    rope__dimension_count=64)  # fmt: skip
    assert host("-np 1 -c 4096", keys=keys).cache == 2 * 2 * 576 * 4096


def test_recurrent_layers_keep_a_state_per_slot() -> None:
    keys = metadata("mamba", attention__head_count=0, attention__head_count_kv=0, ssm__conv_kernel=4,
                    ssm__inner_size=1024, ssm__state_size=16)  # fmt: skip
    assert host("-np 3 -c 4096", keys=keys).cache == 2 * 3 * 4 * (3 * 1024 + 16 * 1024)


def test_hybrids_keep_both() -> None:
    keys = metadata("qwen3next", block_count=4, ssm__conv_kernel=4, ssm__inner_size=1024, ssm__state_size=16,
                    ssm__group_count=1)  # fmt: skip
    state = 3 * (1024 + 2 * 16) + 16 * 1024
    assert host("-np 1 -c 4096", keys=keys, stored=tensors(4)).cache == 3 * 4 * state + 2 * 2 * 128 * 4096


def test_layers_go_to_the_gpu_from_the_last_one() -> None:
    stored = tensors()
    shape = read_shape(metadata(), stored)

    def split(flags: str) -> tuple[int, int]:
        found = project([stored], shape, read_run(flags.split(), slots=1), gpu=True)
        return found.gpu.weights, found.gpu.cache

    block = 2 * (2 * 512 + 2 * 512 * 512 + 2 * 512 * 128 + 3 * 512 * 1024)
    output = 2 * 512 * 356 + 2 * 512
    one_cache = 2 * 2 * 128 * 4096
    assert split("-c 4096") == (2 * block + output, 2 * one_cache)
    assert split("-c 4096 -ngl 2") == (block + output, one_cache)
    assert split("-c 4096 -ngl 1") == (output, 0)
    assert split("-c 4096 -ngl 0") == (0, 0)
    assert split("-c 4096 -dev none") == (0, 0)
    assert split("-c 4096 -nkvo") == (2 * block + output, 0)
    assert split("-c 4096 -ot ffn_.*=CPU") == (2 * (block - 2 * 3 * 512 * 1024 - 2 * 512) + output, 2 * one_cache)


def test_rearranged_weights_are_a_copy() -> None:
    stored = [
        Stored(t.name, t.shape, t.offset, "Q4_0" if t.name.endswith("ffn_up.weight") else t.type) for t in tensors()
    ]
    shape, run = read_shape(metadata(), stored), read_run([], slots=1)
    plain = project([stored], shape, run).host.weights
    rearranged = project([stored], shape, run, repacked=frozenset({"Q4_0"})).host.weights
    assert rearranged == plain + 2 * 2 * 512 * 1024


def test_an_embedding_models_output_grows_with_the_first_batch() -> None:
    keys = metadata("bert", attention__head_count_kv=8, pooling_type=1)
    part = host("--embedding -np 1 -c 2048", keys=keys)
    assert part.cache == 0
    assert part.output == 4 * (356 + 512)
    assert part.growth == 511 * part.output
    assert host("-np 1 -c 2048").growth == 0


@pytest.mark.parametrize("key", ["block_count", "embedding_length"])
@pytest.mark.parametrize("value", [0, 1 << 30, "12", None])
def test_a_header_without_sense_is_refused_by_its_key(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"llama\.{key}"):
        read_shape(metadata(**{key: value}), tensors())


def test_a_file_that_does_not_say_what_it_is() -> None:
    with pytest.raises(ValueError, match=r"general\.architecture"):
        read_shape({}, [])


_LINGERS_SEC = 5.0  # of CPU
_figures = st.one_of(
    st.integers(0, 1 << 62),
    st.integers(0, 64),
    st.sampled_from([None, True, "", -1.5, float("inf"), float("nan")]),
    st.lists(st.integers(0, 1 << 40), max_size=4).map(lambda found: Array(tuple(found))),
)
_KEYS = ("block_count", "embedding_length", "attention.head_count", "attention.head_count_kv", "attention.key_length",
         "attention.sliding_window", "attention.sliding_window_pattern", "attention.kv_lora_rank", "expert_count",
         "attention.key_length_mla", "expert_used_count", "nextn_predict_layers", "context_length",
         "ssm.inner_size", "full_attention_interval", "attention.shared_kv_layers", "kda.head_dim")  # fmt: skip


@settings(deadline=None)  # which is wall time, and passes on a machine that has more to do
@given(
    architecture=st.sampled_from(
        ["llama", "gemma3", "deepseek2", "mamba", "qwen3next", "falcon-h1", "bert", "nonsense"]
    ),
    edits=st.dictionaries(st.sampled_from(_KEYS), _figures, max_size=4),
    flags=st.sampled_from(
        ["", "-c 1 -np 7", "-ub 0 -b 0", "-c 999999999 -np 999999999", "-fa off -np 3", "--embedding"]
    ),
)
def test_no_header_makes_it_crash_or_linger(architecture: str, edits: dict[str, object], flags: str) -> None:
    keys = metadata(architecture) | {f"{architecture}.{key}": value for key, value in edits.items()}
    began = thread_time()
    try:
        part = host(flags, keys=keys)
    except ValueError:
        return
    finally:
        assert thread_time() - began < _LINGERS_SEC
    assert part.total >= 0


def test_the_tightest_hole_is_taken_and_neighbours_are_joined() -> None:
    arena = Arena()
    first, second, third, _last = (arena.take(size) for size in (64, 32, 128, 32))
    arena.give_back(first, 64)
    arena.give_back(third, 128)
    assert arena.take(128) == third, "64 is too small"
    assert arena.take(40) == first
    arena.give_back(first, 64)
    arena.give_back(second, 32)
    assert arena.take(96) == first, "both together"
    assert arena.peak == 256


def test_a_result_takes_the_place_of_its_source_unless_somebody_needs_it() -> None:
    graph = Graph()
    source = graph.op((1024,), graph.external())
    graph.expand(graph.norm(source))
    assert graph.reserve() == 4096
    graph = Graph()
    source = graph.op((1024,), graph.external())
    graph.expand(graph.add(graph.norm(source), source))
    assert graph.reserve() == 2 * 4096
