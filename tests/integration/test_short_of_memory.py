"""Loads that run out of memory, and what is remembered of those that did not."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from router.learned import FILE
from scripts.make_demo_models import ModelSpec, write_model
from tests.fakes.fake_binary import make_fake_binary
from tests.support.models import Models
from tests.support.observing import wait_for_status
from tests.support.router import RunningRouter, router
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.llama, pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")]


def memory(running: RunningRouter, model: str) -> dict[str, Any]:
    found: dict[str, Any] = running.client.get(f"/v1/models/{model}").json()["memory"]
    return found


def test_a_load_that_runs_out_of_memory_is_tried_once_more(models: Models, tmp_path: Path) -> None:
    env = {"LLAMA_SERVER_PATH": str(make_fake_binary(tmp_path))}
    configured = {
        "idle": models.entry("chat"),
        "big": models.entry("chat", "--oom-once", str(tmp_path / "once")),
    }
    with router(tmp_path / "r", configured, env=env) as running:
        assert running.chat("idle").status_code == 200
        before = memory(running, "big")
        assert before["source"] == "formula"
        assert running.chat("big").status_code == 200, running.log
        assert running.log.count("failed to allocate CPU buffer") == 1
        assert running.status("idle")["status"] == "off", "it made room"
        after = memory(running, "big")
        assert after["host_bytes"] == before["host_bytes"] * 5 // 4 or after["source"] == "observed"


def test_one_that_always_runs_out_of_memory_fails_after_two_loads(models: Models, tmp_path: Path) -> None:
    env = {"LLAMA_SERVER_PATH": str(make_fake_binary(tmp_path))}
    words = "alloc_tensor_range: failed to allocate CPU buffer of size 9"
    entry = models.entry("chat", "--exit-code", "1", "--exit-message", words)
    with router(tmp_path / "r", {"big": entry}, env=env) as running:
        answer = running.chat("big")
        assert answer.status_code == 503
        assert words in answer.json()["error"]["message"]
        assert running.log.count("loading big (replica") == 2
        assert wait_for_status(running, "big", "failed")["reason"]


def test_what_was_seen_survives_a_router_that_is_killed(models: Models, tmp_path: Path) -> None:
    with router(tmp_path, {"chat": models.entry("chat")}) as running:
        assert running.chat("chat").status_code == 200
        wait_until((tmp_path / "state" / FILE).exists, what="the first knowledge", deadline=20)
        running.stop(signal.SIGKILL)
    (known,) = json.loads((tmp_path / "state" / FILE).read_text()).values()
    assert known["load_seconds"] > 0
    with router(tmp_path, {"chat": models.entry("chat")}) as running:
        found = memory(running, "chat")
        assert (found["source"], found["host_bytes"]) == ("learned", known["host"])


def test_a_small_model_fits_a_budget_that_a_full_prompt_cache_does_not(models: Models, tmp_path: Path) -> None:
    plain = {"model_path": str(models.chat), "flags": ["-t", "1", "-c", "512"]}
    own = {"model_path": str(models.chat), "flags": ["-t", "1", "-c", "512", "--cache-ram", "400"]}
    system = {"memory_budget_mb": 300, "gpu_devices": []}
    with router(tmp_path / "r", {"plain": plain, "own": own}, system=system) as running:
        for name, said in (("plain", "MiB less for its prompt cache"), ("own", "lower its --cache-ram")):
            assert running.chat(name).status_code == 200, running.log
            words = psutil.Process(running.status(name)["pid"]).cmdline()
            allowed = int(words[words.index("--cache-ram") + 1])
            booked = running.client.get("/vram").json()["models"][name]["booked_mb"]
            assert booked <= 300
            assert (0 < allowed < 300) if name == "plain" else allowed == 400, "what the user says stays"
            assert said in running.log


def test_a_context_beyond_all_memory_is_shortened_and_told(tmp_path: Path) -> None:
    model = write_model(tmp_path / "long.gguf", ModelSpec(layers=4, embd=256, ff=512, heads=4, ctx=262_144))
    configured = {"long": {"model_path": str(model), "flags": ["-t", "1", "--cache-ram", "0"]}}
    with router(tmp_path / "r", configured, system={"memory_budget_mb": 512, "gpu_devices": []}) as running:
        assert running.chat("long").status_code == 200, running.log
        assert "the context was shortened from 262,144 to" in running.status("long")["cut"]
        props = running.client.get("/props?model=long").json()
        assert 4096 < props["default_generation_settings"]["n_ctx"] < 262_144
        running.client.post("/v1/models/eject", json={"model": "long"})
        assert running.chat("long").status_code == 200, "what a cut model took is not taken for the whole"
        assert running.status("long")["cut"]
