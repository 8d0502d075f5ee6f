"""What somebody meets who has just cloned the repository and has no configuration."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from router import __version__
from tests.support.router import ROOT, free_port, launched


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "run.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("newcomer")


def test_the_demo_says_what_it_is_and_its_curl_line_streams_tokens(folder: Path) -> None:
    port = free_port()
    with launched(folder, port, "--port", str(port)) as router:
        assert "demo, since there is no config.json" in router.log
        curl = re.search(r"curl -N .*?'\}?\n", router.log, re.DOTALL)
        assert curl, router.log
        shown = subprocess.run(["sh", "-c", curl.group()], capture_output=True, text=True, timeout=60, check=True)
        events = [line.removeprefix("data: ") for line in shown.stdout.splitlines() if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        words = "".join(json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events[:-1])
        assert words.startswith("This is a demo model")
        embedding = router.client.post("/v1/embeddings", json={"model": "demo-embed", "input": "Hello"})
        assert embedding.json()["data"][0]["embedding"]
        assert {model["id"] for model in router.client.get("/v1/models").json()["data"]} == {
            "demo-small",
            "demo-large",
            "demo-embed",
        }


def test_a_later_start_makes_no_models_again(folder: Path) -> None:
    made = {path: path.stat().st_mtime_ns for path in (folder / ".llama-router" / "demo").glob("*.gguf")}
    assert len(made) == 3
    port = free_port()
    with launched(folder, port, "--port", str(port)) as router:
        assert router.chat("demo-small").status_code == 200
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_a_demo_that_lost_a_model_is_completed(folder: Path) -> None:
    (folder / ".llama-router" / "demo" / "demo-small.gguf").unlink()
    shown = run("models", cwd=folder)
    assert shown.returncode == 0, shown.stderr
    assert (folder / ".llama-router" / "demo" / "demo-small.gguf").is_file()


def test_models_shows_a_table(folder: Path) -> None:
    shown = run("models", "--config", ".llama-router/demo/config.json", cwd=folder)
    assert shown.returncode == 0, shown.stderr
    row = next(line for line in shown.stdout.splitlines() if line.startswith("demo-large"))
    assert "yes, on host" in row
    assert str(folder / ".llama-router" / "demo" / "demo-large.gguf") in row
    assert shown.stdout.startswith("llama.cpp: ")


def test_the_version(tmp_path: Path) -> None:
    assert run("--version", cwd=tmp_path).stdout == f"llama-router {__version__}\n"


@pytest.mark.parametrize("command", ["serve", "check-config", "models"])
def test_a_bad_configuration_ends_with_2_and_names_every_mistake(command: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"api": {"prot": 1}, "models": {"a": {"model_path": "no.gguf"}}}')
    refused = run(command, cwd=tmp_path)
    assert refused.returncode == 2
    assert 'api.prot: unknown key, got 1 (did you mean "port"?)' in refused.stderr
    assert "models.a.model_path: no such file" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_good_configuration_is_called_fine(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    (tmp_path / "config.json").write_text('{"models": {"a": {"model_path": "m.gguf"}}}')
    checked = run("check-config", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert "is fine: 1 model(s)" in checked.stdout


def test_a_taken_port_is_told_in_a_sentence(tmp_path: Path) -> None:
    port = free_port()
    with launched(tmp_path, port, "--port", str(port)):
        refused = run("--port", str(port), cwd=tmp_path)
    assert refused.returncode == 1
    assert f"0.0.0.0:{port}" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_folder_of_models_in_the_environment_is_served_without_a_file(folder: Path, tmp_path: Path) -> None:
    port = free_port()
    env = {"BASE_MODELS_PATH": str(folder / ".llama-router" / "demo"), "API_KEY": ""}
    with launched(tmp_path, port, "--port", str(port), env=env) as router:
        assert "demo, since" not in router.log
        assert router.chat("demo-small").status_code == 200


def test_the_demo_with_a_key_prints_a_line_that_sends_it(folder: Path) -> None:
    port = free_port()
    with launched(folder, port, "--port", str(port), api_key="a key of mine") as router:
        curl = re.search(r"curl -N .*?'\}?\n", router.log, re.DOTALL)
        assert curl, router.log
        command = ["sh", "-c", f"API_KEY='a key of mine'; {curl.group()}"]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert shown.stdout.rstrip().endswith("data: [DONE]")
        assert "a key of mine" not in router.log


def test_a_state_folder_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    (tmp_path / "config.json").write_text(
        '{"system": {"state_dir": "/proc/nope"}, "models": {"a": {"model_path": "m.gguf"}}}'
    )
    refused = run("serve", cwd=tmp_path)
    assert refused.returncode == 2
    assert "system.state_dir: cannot be written: /proc/nope" in refused.stderr


def test_what_was_learned_about_memory_survives_a_restart(folder: Path) -> None:
    port = free_port()
    (folder / ".llama-router" / "learned.json").unlink()
    for source in ("formula", "learned"):
        with launched(folder, port, "--port", str(port)) as router:
            estimate = router.client.get("/vram").json()["models"]["demo-embed"]["estimate"]
            assert estimate["source"] == source
            body = {"model": "demo-embed", "input": "Hello"}
            assert router.client.post("/v1/embeddings", json=body).status_code == 200
            assert router.stop() == 0
    known = json.loads((folder / ".llama-router" / "learned.json").read_text())
    assert [entry["model"] for entry in known.values()] == ["demo-embed"]
