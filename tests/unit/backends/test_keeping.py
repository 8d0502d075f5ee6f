"""Which models keep their conversations, and when the old ones are of no use any more."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from router.backends.capabilities import Capabilities
from router.backends.keeping import Keeping
from router.backends.llama_server import LlamaServerSpec

BUILD = Capabilities(("/bin/ls",), "binary", "1", frozenset({"--slot-save-path"}))


@pytest.fixture
def spec(tmp_path: Path) -> LlamaServerSpec:
    (tmp_path / "model.gguf").write_bytes(b"weights")
    (tmp_path / "adapter.gguf").write_bytes(b"adapter")
    return LlamaServerSpec(tmp_path / "model.gguf", flags=("--lora", "adapter.gguf"))


@pytest.fixture
def keeping(tmp_path: Path) -> Keeping:
    return Keeping(tmp_path / "kept", 16, tmp_path)


def folder_of(keeping: Keeping, spec: LlamaServerSpec, build: Capabilities = BUILD, model: str = "a") -> Path:
    keeper = keeping.keeper(model, spec, build)
    assert keeper is not None
    return keeper.path


def later(file: Path) -> None:
    os.utime(file, ns=(1, 1))


CHANGES: dict[str, Callable[[LlamaServerSpec], LlamaServerSpec]] = {
    "flags": lambda spec: replace(spec, flags=("-c", "1")),
    "environment": lambda spec: replace(spec, env={"A": "1"}),
    "slots": lambda spec: replace(spec, slots=3),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_other_settings_mean_another_folder(
    keeping: Keeping, spec: LlamaServerSpec, change: Callable[[LlamaServerSpec], LlamaServerSpec]
) -> None:
    before = folder_of(keeping, spec)
    assert folder_of(keeping, change(spec)) != before
    assert not before.exists()


@pytest.mark.parametrize("name", ["model.gguf", "adapter.gguf"])
def test_so_does_another_file(keeping: Keeping, spec: LlamaServerSpec, tmp_path: Path, name: str) -> None:
    before = folder_of(keeping, spec)
    assert folder_of(keeping, spec) == before
    later(tmp_path / name)
    assert folder_of(keeping, spec) != before


@pytest.mark.parametrize(
    "flags",
    [
        ("--lora=adapter.gguf",),
        ("--lora", "other.gguf,adapter.gguf"),
        ("--lora-scaled", "adapter.gguf:0.5,other.gguf:1"),
        ("--mmproj", "{}/adapter.gguf"),
    ],
)
def test_however_a_file_is_named(
    keeping: Keeping, spec: LlamaServerSpec, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    named = replace(spec, flags=tuple(flag.format(tmp_path) for flag in flags))
    before = folder_of(keeping, named)
    later(tmp_path / "adapter.gguf")
    assert folder_of(keeping, named) != before


def test_also_in_its_environment(keeping: Keeping, spec: LlamaServerSpec, tmp_path: Path) -> None:
    named = replace(spec, flags=(), env={"LLAMA_ARG_MMPROJ": "adapter.gguf"})
    before = folder_of(keeping, named)
    later(tmp_path / "adapter.gguf")
    assert folder_of(keeping, named) != before


def test_so_does_another_build(keeping: Keeping, spec: LlamaServerSpec) -> None:
    assert folder_of(keeping, spec) != folder_of(keeping, spec, replace(BUILD, version="2"))


def test_models_do_not_share_a_folder(keeping: Keeping, spec: LlamaServerSpec) -> None:
    assert folder_of(keeping, spec) != folder_of(keeping, spec, model="b")


def test_it_is_off_for_models_without_conversations(keeping: Keeping, spec: LlamaServerSpec) -> None:
    assert keeping.keeper("a", replace(spec, has_conversations=False), BUILD) is None


def test_it_is_off_where_the_build_cannot(keeping: Keeping, spec: LlamaServerSpec) -> None:
    assert keeping.keeper("a", spec, replace(BUILD, flags=frozenset())) is None


def test_a_folder_of_the_users_own_is_left_alone(keeping: Keeping, spec: LlamaServerSpec) -> None:
    for flags in (("--slot-save-path", "/x"), ("--slot-save-path=/x",)):
        assert keeping.keeper("a", replace(spec, flags=flags), BUILD) is None


def test_a_start_keeps_what_can_still_be_used(keeping: Keeping, spec: LlamaServerSpec, tmp_path: Path) -> None:
    for model in ("a", "b"):
        folder_of(keeping, spec, model=model)
    Keeping(tmp_path / "kept", 16, tmp_path).tidy({"a": spec}, BUILD, alone=True)
    assert list((tmp_path / "kept").iterdir()) == [folder_of(keeping, spec)]


def test_what_a_child_writes_or_reads_meanwhile_stays(keeping: Keeping, spec: LlamaServerSpec) -> None:
    part = folder_of(keeping, spec) / "0123456789abcdef.part"
    part.touch()
    keeping.tidy({"a": spec}, BUILD, alone=False)
    assert part.exists()
    keeping.tidy({"a": spec}, BUILD, alone=True)
    assert not part.exists()


def test_switching_it_off_deletes_everything(keeping: Keeping, spec: LlamaServerSpec, tmp_path: Path) -> None:
    folder_of(keeping, spec)
    off = Keeping(tmp_path / "kept", 0, tmp_path)
    assert off.keeper("a", spec, BUILD) is None
    off.tidy({"a": spec}, BUILD, alone=True)
    assert list((tmp_path / "kept").iterdir()) == []


def test_without_a_folder_models_run_all_the_same(
    spec: LlamaServerSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "kept").write_text("in the way")
    assert Keeping(tmp_path / "kept", 16, tmp_path).keeper("a", spec, BUILD) is None
    assert "the conversations of a are not kept" in caplog.text
