"""What is expected of a model, from its files and flags."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.config import ModelConfig
from router.core.estimate import project, projector_compute, read_run, read_shape
from router.core.types import Need, Pin
from router.devices.gguf import ArrayInfo, read_header
from router.foresight import Foresight, Machine, foresee
from scripts.make_demo_models import ModelSpec, write_model

CPU = Machine(gpu=False, repacked=frozenset(), multiplier=1.1)
GPU = Machine(gpu=True, repacked=frozenset(), multiplier=1.1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "m.gguf", ModelSpec(layers=4))


def seen(file: Path, *flags: str, machine: Machine = CPU, slots: int = 1) -> Foresight:
    config = ModelConfig(model_path=file, flags=flags)
    return foresee(config, [file], slots=slots, folder=file.parent, reserve=7, machine=machine)


def test_a_model_on_the_cpu(model: Path) -> None:
    found = seen(model, "-c", "1024")
    assert found.parts is not None
    assert found.need == Need(0, found.parts.host.total, 7, "formula", base=found.parts.host.total)
    assert found.parts.host.cache == 2 * 2 * 32 * 4 * 1024
    assert found.need.host > found.file_bytes == model.stat().st_size


def test_slots_share_the_context_that_is_asked_for(model: Path) -> None:
    one, four = seen(model, "-c", "4096"), seen(model, "-c", "4096", slots=4)
    assert one.parts is not None
    assert four.parts is not None
    assert one.parts.host.cache == four.parts.host.cache


def test_a_gpu_takes_the_layers_and_ram_the_embeddings(model: Path) -> None:
    found = seen(model, "-c", "1024", machine=GPU)
    assert found.parts is not None
    assert found.parts.gpu.cache == 2 * 2 * 32 * 4 * 1024
    assert found.parts.host.cache == 0
    assert seen(model, "-ngl", "0", machine=GPU).need.gpu == 0


def test_companions_count(model: Path, tmp_path: Path) -> None:
    (tmp_path / "lora").write_bytes(bytes(12345))
    plain = seen(model)
    assert seen(model, "--lora", str(tmp_path / "lora")).need.host == plain.need.host + 12345
    (tmp_path / "other").write_bytes(bytes(300))
    several = f"{tmp_path}/lora,{tmp_path}/other"
    for flags in (("--lora", several), ("--lora", f"{tmp_path}/lora", "--lora", f"{tmp_path}/other"),
                  ("--lora-scaled", f"{tmp_path}/lora:0.5,{tmp_path}/other:-1")):  # fmt: skip
        assert seen(model, *flags).need.host == plain.need.host + 12345 + 300
    assert seen(model, "--lora", several).fingerprint != plain.fingerprint
    projector = ModelConfig(model_path=model, env={"LLAMA_ARG_MMPROJ": str(tmp_path / "lora")})
    found = foresee(projector, [model], slots=1, folder=tmp_path, reserve=7, machine=CPU)
    assert found.need.host == plain.need.host + 12345
    assert not found.need.base, "what it takes for large images is not known"
    drafted = seen(model, "-md", str(model))
    assert drafted.parts is not None
    assert drafted.need.host == plain.need.host + drafted.parts.host.buffers


def test_a_copy_has_the_same_fingerprint_and_another_shape_has_not(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(model.read_bytes())
    assert seen(copy).fingerprint == seen(model).fingerprint
    other = write_model(tmp_path / "other.gguf", ModelSpec(layers=3))
    assert seen(other).fingerprint != seen(model).fingerprint


@pytest.mark.parametrize("damage", ["missing", "loop", "garbage", "cut", "no architecture"])
def test_what_cannot_be_read_is_guessed_and_told(damage: str, model: Path, tmp_path: Path) -> None:
    file = tmp_path / "bad.gguf"
    if damage == "loop":
        file.symlink_to(file)
    elif damage == "garbage":
        file.write_bytes(bytes(1000))
    elif damage == "cut":
        file.write_bytes(model.read_bytes()[:2000])
    elif damage == "no architecture":
        file.write_bytes(model.read_bytes().replace(b"general.architecture", b"general.architectura"))
    tracemalloc.start()
    began = time.perf_counter()
    found = seen(file)
    assert time.perf_counter() - began < 0.1
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert found.reason.startswith(str(file)), found.reason
    assert found.parts is None
    assert found.need == Need(0, round(found.file_bytes * 1.1), 7, "file size")


def test_parts_that_are_not_what_their_names_say_are_told(model: Path, tmp_path: Path) -> None:
    parts = [tmp_path / f"m-0000{number}-of-00002.gguf" for number in (1, 2)]
    for part in parts:
        part.write_bytes(model.read_bytes())
    found = foresee(
        ModelConfig(model_path=parts[0]), parts, slots=1, folder=tmp_path, reserve=0, machine=CPU
    )  # fmt: skip
    assert found.reason == f"{parts[0]}: it says split.no 0, split.count 1, and its place is 0 of 2"


HOSTILE = st.sampled_from([0, 1, -1, 2**31, 2**39, 2**40, 2**64 - 1, float("inf"), float("nan"), -0.5, 1e300, True])
VALUES = (
    HOSTILE
    | st.text(max_size=3)
    | st.lists(HOSTILE, max_size=5).map(lambda found: ArrayInfo("f32", len(found), tuple(found)))
)
KEYS = st.sampled_from([
    "block_count", "embedding_length", "context_length", "feed_forward_length", "attention.head_count",
    "attention.head_count_kv", "attention.key_length", "attention.value_length", "attention.sliding_window",
    "attention.sliding_window_pattern", "attention.kv_lora_rank", "attention.key_length_mla",
    "attention.recurrent_layers", "attention.shared_kv_layers", "expert_count", "expert_used_count",
    "full_attention_interval", "nextn_predict_layers", "pooling_type", "ssm.conv_kernel", "ssm.inner_size",
    "ssm.state_size", "ssm.group_count", "wkv.head_size", "shortconv.l_cache", "kda.head_dim",
])  # fmt: skip
ARCHITECTURES = st.sampled_from(["llama", "gemma3", "qwen35", "mamba", "bert", "deepseek2", "jamba", "gemma3n"])


@given(architecture=ARCHITECTURES, values=st.dictionaries(KEYS, VALUES, max_size=6))
@settings(max_examples=200, deadline=None)
def test_no_figure_in_a_header_breaks_the_arithmetic(model: Path, architecture: str, values: dict[str, Any]) -> None:
    header = read_header(model)
    told = {key.replace("llama.", f"{architecture}."): value for key, value in header.metadata.items()}
    told |= {f"{architecture}.{key}": value for key, value in values.items()}
    told["general.architecture"] = architecture
    try:
        shape = read_shape(told, header.tensors)
    except ValueError:
        return
    for flags in ("", "-c 100 -fa off --embedding -ngl 1"):
        found = project([header.tensors], shape, read_run(flags.split(), slots=2), gpu=True)
        assert found.host.total >= 0 <= found.gpu.total


def test_any_number_of_experts_on_the_cpu_costs_no_time(model: Path) -> None:
    began = time.process_time()
    found = seen(model, "--n-cpu-moe", "999999", machine=GPU)
    assert time.process_time() - began < 0.5
    assert found.parts is not None
    assert found.need.gpu == seen(model, machine=GPU).need.gpu


@pytest.mark.parametrize(
    ("flags", "whole"),
    [
        ("-c 1024", ("--fit", "off")),
        ("", ("--fit", "off", "-c", "8192")),  # 2,048 tokens as trained for each of four slots, as with the fit on
        ("-kvu", ("--fit", "off", "-c", "2048")),
        ("-c 0", ()),  # with the fit off that would be shared out
        ("-c 0 -np 1", ("--fit", "off")),
        ("-c 1024 --fit on", ()),
        ("-c 1024 --fit-target 64", ()),
    ],
)
def test_how_the_fit_is_switched_off(flags: str, whole: tuple[str, ...], model: Path) -> None:
    assert seen(model, *flags.split(), slots=4).whole == whole


def test_an_open_context_is_all_for_each_slot(model: Path) -> None:
    one, four = seen(model), seen(model, slots=4)
    assert one.parts is not None
    assert four.parts is not None
    assert four.parts.host.cache == 4 * one.parts.host.cache


def test_what_a_further_gpu_adds_and_a_shorter_context_spares(tmp_path: Path) -> None:
    long = write_model(tmp_path / "long.gguf", ModelSpec(layers=4, ctx=32768))
    found = seen(long, machine=GPU)
    assert found.parts is not None
    assert found.need.each == found.parts.each > found.parts.gpu.compute + found.parts.gpu.process
    assert found.need.spare >= found.parts.gpu.cache * 7 // 8
    assert seen(long, "-c", "32768", machine=GPU).need.spare == 0
    assert seen(long).need.each == 0
    assert seen(long).need.spare > 0
    assert seen(long, slots=2).contexts == (8192, 65536)
    assert seen(long, "-c", "32768").contexts is None


@pytest.mark.parametrize(
    ("shape", "mib"),
    [((448, 384, 1536), 10.50), ((896, 256, 1024), 28.00), ((336, 512, 2048), 8.06), ((448, 384, 256), 7.50)],
)
def test_what_a_projector_computes_in_is_what_llama_server_says(
    shape: tuple[int, int, int], mib: float, model: Path, tmp_path: Path
) -> None:
    """The figures are those of llama-server b11434 for made-up projectors of these shapes."""
    file = tmp_path / "mmproj.gguf"
    writer = gguf.GGUFWriter(file, "clip")
    keys = ("image_size", "embedding_length", "feed_forward_length", "patch_size")
    for key, value in zip(keys, (*shape, 14), strict=True):
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert projector_compute(read_header(file).metadata) == pytest.approx(mib * 2**20, rel=0.1)
    plain, beside = (seen(model, *flags, machine=GPU).need for flags in ((), ("--mmproj", str(file))))
    assert beside.gpu - plain.gpu == file.stat().st_size + projector_compute(read_header(file).metadata)
    in_ram = seen(model, "--mmproj", str(file), "--no-mmproj-offload", machine=GPU).need
    assert (in_ram.gpu, in_ram.host) == (plain.gpu, plain.host + beside.gpu - plain.gpu)


def test_a_projector_with_absurd_figures_breaks_nothing() -> None:
    for value in (0, -1, 1 << 19, True, 1e9, "x"):
        told: dict[str, Any] = dict.fromkeys(
            ("image_size", "patch_size", "embedding_length", "feed_forward_length"), 14
        )
        for key in told:
            assert projector_compute({f"clip.vision.{name}": v for name, v in (told | {key: value}).items()}) >= 0


def test_context_checkpoints_are_growth_in_ram_and_have_a_bound(tmp_path: Path) -> None:
    """llama-server b11434 tells 2.506 MiB for one of this model: the rows, and 12 bytes about each cell."""
    shape = ModelSpec(architecture="gemma3", layers=12, embd=256, ff=512, heads=4, kv_heads=2, ctx=8192,
                      sliding_window=512)  # fmt: skip
    windowed = write_model(tmp_path / "g.gguf", shape)
    one = 10 * 512 * 2 * (2 * 64) * 2  # windowed layers, cells, keys and values, elements, f16
    assert seen(windowed).need.reserve == 7 + 32 * one
    assert seen(windowed, slots=2).checkpoint_bytes == 2 * one
    assert seen(windowed).checkpoints is None
    assert seen(windowed, slots=16).need.reserve == 7 + 12 * 16 * one
    assert seen(windowed, slots=16).checkpoints == 12
    assert [seen(windowed, slots=slots).checkpoints for slots in (32, 45, 300)] == [6, 3, 3]
    assert seen(windowed, "-ctxcp", "3", slots=100).need.reserve == 7 + 3 * 100 * one
    assert not seen(windowed, "-ctxcp", "3").checkpoint_bytes, "not ours to say"
    assert seen(windowed, "-ctxcp", "3", slots=100).checkpoints is None
    assert seen(windowed, "--swa-full").need.reserve == seen(windowed, "--embedding").need.reserve == 7


def test_flags_that_name_a_gpu_are_kept_in_mind(model: Path) -> None:
    assert seen(model, "-dev", "CUDA1", machine=GPU).need.pin == Pin(gpus=(1,), numbered=True)
