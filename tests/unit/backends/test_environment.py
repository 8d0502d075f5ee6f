"""What a child gets to see of our environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.backends.environment import child_environment, inherited, llama_environment, python_path


def child(model_env: dict[str, str] | None = None, *, gpus: tuple[int, ...] = (), hide: bool = False) -> dict[str, str]:
    return child_environment(model_env or {}, key="k", gpus=gpus, hide_gpus=hide, embedded=False)


def test_only_what_is_needed_is_inherited() -> None:
    harmless = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "LD_LIBRARY_PATH": "/l",
        "CUDA_HOME": "/c",
        "GGML_VK_VISIBLE_DEVICES": "0",
    }
    secret = {
        "API_KEY": "a",
        "METRICS_TOKEN": "b",
        "HF_TOKEN": "c",
        "OPENAI_API_KEY": "d",
        "AWS_SECRET_ACCESS_KEY": "e",
    }
    meddling = {"LLAMA_ARG_CTX_SIZE": "1", "LLAMA_API_KEY": "x", "CUDA_VISIBLE_DEVICES": "3", "LD_PRELOAD": "/x.so"}
    assert inherited(harmless | secret | meddling) == harmless


def test_the_accounts_own_config_ini_of_llama_cpp_is_not_applied(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "llama.cpp").mkdir()
    (tmp_path / "llama.cpp" / "config.ini").write_text("[*]\nmmproj = x.gguf\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for env in (child(), llama_environment(embedded=False)):
        assert not (Path(env["XDG_CONFIG_HOME"]) / "llama.cpp" / "config.ini").exists()
    assert child({"XDG_CONFIG_HOME": str(tmp_path)})["XDG_CONFIG_HOME"] == str(tmp_path)  # whoever wants it says so


def test_the_models_own_variables_come_along() -> None:
    assert child({"GGML_X": "1", "MY_OWN": "2"}).items() >= {"GGML_X": "1", "MY_OWN": "2"}.items()


def test_what_is_decided_here_cannot_be_undone_by_the_model() -> None:
    env = child({"LLAMA_API_KEY": "mine", "CUDA_VISIBLE_DEVICES": "7", "CUDA_DEVICE_ORDER": "X"}, gpus=(0, 2))
    assert env["LLAMA_API_KEY"] == "k"
    assert env["CUDA_VISIBLE_DEVICES"] == "0,2"
    assert env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_gpus_are_hidden_from_a_child_placed_on_none() -> None:
    assert child(hide=True)["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in child()


def test_a_python_child_finds_this_package_and_nothing_in_its_working_directory() -> None:
    env = python_path({"PYTHONPATH": "/a:/b"})
    assert env["PYTHONPATH"].endswith(":/a:/b")
    assert env["PYTHONSAFEPATH"] == "1"
