"""Models found by themselves below a folder."""

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from router.config import ModelConfig, Settings, SystemConfig, load_settings
from router.errors import ConfigError
from scripts.make_demo_models import ModelSpec, write_model


def touch(base: Path, *names: str) -> None:
    for name in names:
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).touch()


def discovered(base: Path, models: dict[str, ModelConfig] | None = None) -> Settings:
    system = SystemConfig(base_models_path=base, discover_models=True)
    return Settings.build(models=models or {}, system=system, folder=base)


def projectors(settings: Settings, base: Path) -> dict[str, str]:
    """Model -> its projector below the base, for those that have one."""
    return {
        name: str(Path(model.flags[1]).relative_to(base))
        for name, model in settings.models.items()
        if model.flags[:1] == ("--mmproj",)
    }


def test_every_gguf_becomes_a_model_called_by_its_file(tmp_path: Path) -> None:
    touch(tmp_path, "b.gguf", "a.Q4_K_M.gguf", "deep/er/c.GGUF", "readme.md", "d.gguf.part")
    settings = discovered(tmp_path)
    assert list(settings.models) == ["a.Q4_K_M", "b", "c"]
    assert settings.model_file("c") == tmp_path / "deep/er/c.GGUF"
    assert settings.notes == ()


def test_equal_names_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    touch(tmp_path, "m.gguf", "x/m.gguf", "y/m.gguf", "y/n.gguf")
    assert list(discovered(tmp_path).models) == ["m", "x/m", "y/m", "n"]


def test_a_split_model_is_one_model(tmp_path: Path) -> None:
    touch(tmp_path, *(f"big-0000{n}-of-00003.gguf" for n in (1, 2, 3)))
    settings = discovered(tmp_path)
    assert list(settings.models) == ["big"]
    assert settings.model_file("big").name == "big-00001-of-00003.gguf"
    assert len(settings.model_files("big")) == 3


@pytest.mark.parametrize("there", [(1, 3), (2, 3), (3,)])
def test_a_split_model_with_parts_missing_is_left_out_with_one_note(tmp_path: Path, there: Iterable[int]) -> None:
    touch(tmp_path, "a.gguf", *(f"big-0000{n}-of-00003.gguf" for n in there))
    settings = discovered(tmp_path)
    assert list(settings.models) == ["a"]
    assert len(settings.notes) == 1
    assert "of its 3 parts are missing" in settings.notes[0]


def test_a_projector_goes_with_all_quantisations_of_the_one_model_of_its_folder(tmp_path: Path) -> None:
    touch(tmp_path, "g/gemma-Q4_K_M.gguf", "g/gemma-Q8_0.gguf", "g/mmproj-F32.gguf", "g/mmproj-F16.gguf", "other.gguf")
    settings = discovered(tmp_path)
    assert projectors(settings, tmp_path) == {"gemma-Q4_K_M": "g/mmproj-F16.gguf", "gemma-Q8_0": "g/mmproj-F16.gguf"}
    assert settings.notes == ()


def test_in_a_mixed_folder_a_projector_goes_with_the_model_it_is_named_after(tmp_path: Path) -> None:
    touch(tmp_path, "gemma-3-4b-Q4_0.gguf", "qwen-vl-Q4_0.gguf", "plain.gguf")
    touch(tmp_path, "mmproj-gemma-3-4b-f16.gguf", "mmproj-gemma-f16.gguf", "mmproj-Qwen-VL-bf16.gguf", "mmproj-x.gguf")
    assert projectors(discovered(tmp_path), tmp_path) == {
        "gemma-3-4b-Q4_0": "mmproj-gemma-3-4b-f16.gguf",
        "qwen-vl-Q4_0": "mmproj-Qwen-VL-bf16.gguf",
    }


def test_a_projector_that_fits_no_model_is_left_out_with_a_note(tmp_path: Path) -> None:
    touch(tmp_path, "a.gguf", "b.gguf", "mmproj-f16.gguf")
    settings = discovered(tmp_path)
    assert projectors(settings, tmp_path) == {}
    assert "mmproj-f16.gguf: left out" in settings.notes[0]


def test_links_that_leave_the_folder_are_left_out_with_a_note(tmp_path: Path) -> None:
    base, outside = tmp_path / "base", tmp_path / "outside"
    touch(base, "a.gguf")
    touch(outside, "secret.gguf")
    (base / "file.gguf").symlink_to(outside / "secret.gguf")
    (base / "folder").symlink_to(outside)
    (base / "broken.gguf").symlink_to(base / "nothing")
    (base / "inside.gguf").symlink_to(base / "a.gguf")
    settings = discovered(base)
    assert list(settings.models) == ["a", "inside"]
    assert {note.split(": ")[0] for note in settings.notes} == {
        str(base / name) for name in ("file.gguf", "folder", "broken.gguf")
    }


def test_a_base_that_is_itself_a_link_is_fine(tmp_path: Path) -> None:
    touch(tmp_path / "real", "a.gguf")
    (tmp_path / "base").symlink_to(tmp_path / "real")
    assert list(discovered(tmp_path / "base").models) == ["a"]


def test_a_folder_of_everything_is_not_walked_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.config.discovery.MOST_FOLDERS", 3)
    for name in ("a", "b", "c"):
        touch(tmp_path / name, f"{name}.gguf")
    settings = discovered(tmp_path)
    assert list(settings.models) == ["a", "b"]
    assert settings.notes == (
        f"{tmp_path}: has more than 3 folders, and from {tmp_path / 'c'} on none was looked into",
    )


def test_names_that_no_model_may_have_are_left_out_with_a_note(tmp_path: Path) -> None:
    touch(tmp_path, "a,b.gguf", "load.gguf", "good.gguf")
    settings = discovered(tmp_path)
    assert list(settings.models) == ["good"]
    assert len(settings.notes) == 2


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX only")
def test_a_name_that_is_not_utf8_is_left_out_with_a_note_that_can_be_printed(tmp_path: Path) -> None:
    try:
        touch(tmp_path, os.fsdecode(b"\xff.gguf"))
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    settings = discovered(tmp_path)
    assert not settings.models
    assert "not UTF-8" in settings.notes[0].encode().decode()


def test_models_that_are_written_down_come_first_and_are_not_found_again(tmp_path: Path) -> None:
    touch(tmp_path, "a.gguf", "b.gguf", "c.gguf", "sub/mine.gguf", "sub/alias.gguf")
    mine = ModelConfig(model_path=Path("b.gguf"), flags=("-c", "1"), aliases=("alias",))
    settings = discovered(tmp_path, {"mine": mine})
    assert list(settings.models) == ["mine", "a", "c", "sub/alias", "sub/mine"]
    assert settings.models["mine"] is mine


def test_without_models_discovery_is_the_default(tmp_path: Path) -> None:
    touch(tmp_path / "models", "a.gguf")
    settings = load_settings(environ={"BASE_MODELS_PATH": "models"}, cwd=tmp_path)
    assert list(settings.models) == ["a"]
    named = Settings.build(
        models={"x": ModelConfig(model_path=Path("a.gguf"))},
        system=SystemConfig(base_models_path=tmp_path / "models"),
    )
    assert list(named.models) == ["x"]


def test_an_empty_folder_is_noted(tmp_path: Path) -> None:
    assert discovered(tmp_path).notes == (f"{tmp_path}: no *.gguf below it",)


@pytest.mark.parametrize(("pooling", "flags"), [("mean", ("--embedding",)), ("rank", ("--reranking",)), (None, ())])
def test_a_model_that_only_embeds_or_ranks_is_started_for_that(
    tmp_path: Path, pooling: str | None, flags: tuple[str, ...]
) -> None:
    write_model(tmp_path / "m.gguf", ModelSpec(pooling=pooling))
    model = discovered(tmp_path).models["m"]
    assert (model.flags, model.writes_no_text) == (flags, bool(flags))


def hugging_face_cache(hub: Path) -> Path:
    """A cache with one model, as its client lays it out; returns the snapshot's folder."""
    repository = hub / "models--org--m-GGUF"
    snapshot = repository / "snapshots" / "0123456789abcdef"
    (repository / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (repository / "blobs" / "a1b2c3").write_bytes(b"GGUF")
    (snapshot / "m-q4.gguf").symlink_to(Path("../../blobs/a1b2c3"))
    return snapshot


def test_a_hugging_face_cache_is_served_from_its_root(tmp_path: Path) -> None:
    snapshot = hugging_face_cache(tmp_path)
    system = SystemConfig(base_models_path=tmp_path)
    found = Settings.build(models={}, system=system, folder=tmp_path)
    assert found.model_file("m-q4") == snapshot / "m-q4.gguf"
    relative = ModelConfig(model_path=(snapshot / "m-q4.gguf").relative_to(tmp_path))
    assert Settings.build(models={"m": relative}, system=system, folder=tmp_path).notes == ()


def test_from_its_snapshot_only_by_absolute_paths(tmp_path: Path) -> None:
    snapshot = hugging_face_cache(tmp_path)
    system = SystemConfig(base_models_path=snapshot)
    assert "a link that leads out" in Settings.build(models={}, system=system, folder=tmp_path).notes[0]
    with pytest.raises(ConfigError, match=r"a link leads out .*write the absolute path"):
        Settings.build(models={"m": ModelConfig(model_path=Path("m-q4.gguf"))}, system=system, folder=tmp_path)
    absolute = ModelConfig(model_path=snapshot / "m-q4.gguf")
    assert Settings.build(models={"m": absolute}, system=system, folder=tmp_path).model_file("m").is_file()
