"""Finding llama.cpp and asking it."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.backends.capabilities import EMBEDDED, Capabilities, Finder, ask, find_command, parse_flags, parse_version
from router.engine.ports import LaunchError
from tests.fakes.fake_binary import make_fake_binary

HELP = """\
----- common params -----

-h,    --help, --usage                  print usage and exit
--version                               show version and build info
-cl,   --cache-list                     show list of models in cache
-t,    --threads N                      number of CPU threads to use during generation (default: -1)
                                        (env: LLAMA_ARG_THREADS)
-kvu,  --kv-unified, -no-kvu, --no-kv-unified
                                        use single unified KV buffer, see --parallel-not-a-flag
--cache-ram, -cram N                    set the maximum cache size in MiB
"""


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_flags_are_those_that_begin_an_entry() -> None:
    assert parse_flags(HELP) == {
        "-h", "--help", "--usage", "--version", "-cl", "--cache-list", "-t", "--threads", "-kvu", "--kv-unified",
        "-no-kvu", "--no-kv-unified", "--cache-ram", "-cram",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("ggml_cuda_init: found 1 CUDA devices\nversion: 6123 (abc1234)\nbuilt with gcc\n", "6123 (abc1234)"),
        ("b1234\n", "b1234"),
        ("version:\n", "unknown"),
        ("", "unknown"),
    ],
)
def test_version(text: str, version: str) -> None:
    assert parse_version(text) == version


def test_the_configured_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configured = make_fake_binary(tmp_path, name="mine")
    make_fake_binary(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_command(configured) == ((str(configured),), "binary")


def test_then_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = make_fake_binary(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_command(None) == ((str(binary),), "binary")


def test_then_the_embedded_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_command(None) == (EMBEDDED, "embedded")


def test_a_missing_binary_is_named(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=f"{tmp_path}/nowhere is not there"):
        find_command(tmp_path / "nowhere")


def test_a_folder_is_no_binary(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="is a directory"):
        find_command(tmp_path)


def test_a_binary_that_is_not_executable_is_named(tmp_path: Path) -> None:
    path = tmp_path / "llama-server"
    path.write_text("")
    with pytest.raises(LaunchError, match=f"{path} is not executable; try chmod"):
        find_command(path)


async def test_a_binary_is_asked(tmp_path: Path) -> None:
    found = await Finder(make_fake_binary(tmp_path)).find()
    assert found.kind == "binary"
    assert found.version == "11434 (fake000)"
    assert found.supports("--cache-ram")
    assert found.supports("-cram")
    assert not found.supports("--warp-drive")


async def test_the_answer_is_kept_and_a_failure_is_not(tmp_path: Path) -> None:
    finder = Finder(tmp_path / "llama-server")
    with pytest.raises(LaunchError, match="is not there"):
        await finder.find()
    assert finder.known is None
    make_fake_binary(tmp_path)
    found = await finder.find()
    (tmp_path / "llama-server").unlink()
    assert await finder.find() is found is finder.known


async def test_a_binary_that_cannot_start_says_why(tmp_path: Path) -> None:
    words = "error while loading shared libraries: libcudart.so.13: cannot open shared object file"
    with pytest.raises(LaunchError, match=r"exited with code 127: error while loading .*libcudart"):
        await ask((str(script(tmp_path / "broken", f"echo '{words}' >&2; exit 127")),), "binary")


async def test_something_that_is_no_program_is_named(tmp_path: Path) -> None:
    path = tmp_path / "garbage"
    path.write_bytes(b"\x7fELF but not really")
    path.chmod(0o755)
    with pytest.raises(LaunchError, match=str(path)):
        await ask((str(path),), "binary")


async def test_a_binary_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.backends.capabilities._PROBE_SEC", 0.2)
    with pytest.raises(LaunchError, match=r"gave no answer within 0\.2 s"):
        await ask((str(script(tmp_path / "mute", "sleep 1000")),), "binary")


async def test_the_routers_secrets_are_not_shown_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "router-key")
    found = await ask((str(script(tmp_path / "nosy", 'echo "version: key=$API_KEY."')),), "binary")
    assert found.version == "key=."


def test_what_a_build_lacks_is_told() -> None:
    found = Capabilities(("/opt/llama-server",), "binary", "1", frozenset({"--parallel", "--metrics"}))
    assert "without --slots, --cache-ram" in str(found)
