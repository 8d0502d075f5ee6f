"""What makes one replica of a model another than the last."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from router.config import ModelConfig, Settings, SystemConfig
from router.inventory import Entry, inventory, renewed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    (tmp_path / "adapter.gguf").write_bytes(b"GGUF")
    return tmp_path


def listed(folder: Path, known: tuple[Entry, ...] = (), *, vram_multiplier: float = 1.1, **keys: Any) -> Entry:
    models = {"m": ModelConfig.model_validate({"model_path": "m.gguf", "flags": ["--lora", "adapter.gguf"], **keys})}
    system = SystemConfig(base_models_path=folder, vram_multiplier=vram_multiplier)
    settings = Settings.build(models=models, folder=folder, system=system)
    (found,) = inventory(settings, gpu_available=False, known=known)
    return found


@pytest.mark.parametrize(
    "keys",
    [{"flags": ["-c", "512"]}, {"flags": []}, {"env": {"A": "1"}}, {"flags": ["--lora", "adapter.gguf", "-np", "3"]}],
)
def test_another_origin(keys: dict[str, Any], folder: Path) -> None:
    assert listed(folder, **keys).origin != listed(folder).origin


@pytest.mark.parametrize("keys", [{"aliases": ["x"]}, {"pinned": True}, {"evict_cost": 3}, {"idle_timeout_sec": 1}])
def test_the_same_origin(keys: dict[str, Any], folder: Path) -> None:
    known = listed(folder)
    found = listed(folder, (known,), **keys)
    assert found.origin == known.origin
    assert found.config != known.config


@pytest.mark.parametrize("file", ["m.gguf", "adapter.gguf"])
def test_a_file_that_was_replaced(file: str, folder: Path) -> None:
    known = listed(folder)
    (folder / file).write_bytes(b"GGUF, another one")
    found = listed(folder, (known,))
    assert found.origin != known.origin
    assert found.file_bytes > known.file_bytes


def test_a_file_that_only_the_environment_or_a_list_names(folder: Path) -> None:
    for keys in ({"flags": [], "env": {"LLAMA_ARG_MMPROJ": "adapter.gguf"}}, {"flags": ["--lora=x.gguf,adapter.gguf"]}):
        (folder / "adapter.gguf").write_bytes(b"GGUF")
        known = listed(folder, **keys)
        (folder / "adapter.gguf").write_bytes(b"GGUF, another one")
        assert listed(folder, (known,), **keys).origin != known.origin
        assert folder / "adapter.gguf" in known.launch_spec().companions


def test_only_what_goes_into_memory_is_looked_at_before_a_load(folder: Path) -> None:
    settings = Settings.build(
        models={
            "m": ModelConfig(model_path=folder / "m.gguf", flags=("--lora", "adapter.gguf", "--grammar-file", "g"))
        },
        folder=folder,
        system=SystemConfig(base_models_path=folder),
    )
    (known,) = inventory(settings, gpu_available=False)
    (folder / "g").write_bytes(b"root ::= x")
    assert renewed(settings, known) is None
    for file in ("m.gguf", "adapter.gguf"):
        (folder / file).write_bytes(b"GGUF, another one")
        found = renewed(settings, known)
        assert found is not None
        assert found.origin != known.origin
        known = found


def test_the_figures_of_what_has_not_changed_are_taken(folder: Path) -> None:
    known = replace(listed(folder), file_bytes=123)
    assert listed(folder, (known,), pinned=True).file_bytes == 123
    assert listed(folder, (known,), vram_multiplier=2).file_bytes != 123


def test_a_flag_that_names_no_file_is_none(folder: Path) -> None:
    long = listed(folder, flags=["--chat-template", "x" * 5000, "--grammar", "root ::= x"])
    assert long.stamps[1:] == ((0, 0), (0, 0))
