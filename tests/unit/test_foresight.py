"""What is expected of a model, from its files and flags."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import pytest

from router.config import ModelConfig
from router.core.types import Need, Pin
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
    assert found.need == Need(0, found.parts.host.total, 7, "formula")
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


def test_flags_that_name_a_gpu_are_kept_in_mind(model: Path) -> None:
    assert seen(model, "-dev", "CUDA1", machine=GPU).need.pin == Pin(gpus=(1,), numbered=True)
