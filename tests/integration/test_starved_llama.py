"""Real llama.cpp from which something is taken: the file that it reads its model from, the memory it is to fill."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.make_demo_models import ModelSpec, write_model
from tests.support.expect import expect_error
from tests.support.models import FLAGS, Models
from tests.support.router import ROOT, RunningRouter, router

pytestmark = [pytest.mark.llama, pytest.mark.skipif(sys.platform != "linux", reason="SIGBUS and limits as Linux has")]

LIMIT_KIB = 1_000_000  # of address space; what `greedy` is to remember takes 1 GiB
TOKENS = 524_288


@pytest.fixture(scope="module")
def starved(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    folder = tmp_path_factory.mktemp("starved")
    greedy = write_model(folder / "greedy.gguf", ModelSpec(layers=4, embd=256, ff=512, heads=4, ctx=TOKENS))
    binary = folder / "llama-server"
    program = os.environ.get("LLAMA_SERVER_PATH") or shlex.join([sys.executable, "-m", "router.backends.embedded"])
    binary.write_text(
        f'#!/bin/sh\ncase "$*" in *greedy.gguf*) ulimit -v {LIMIT_KIB};; esac\ncd {ROOT}\nexec {program} "$@"\n'
    )
    binary.chmod(0o755)
    configured = {
        "cut": {"model_path": str(shutil.copy(models.chat, folder / "cut.gguf")), "flags": list(FLAGS)},
        "greedy": {"model_path": str(greedy), "flags": ["-t", "1", "-c", str(TOKENS), "-np", "1", "--cache-ram", "0"]},
        "other": models.entry("chat"),
    }
    env = {"LLAMA_SERVER_PATH": str(binary)}
    with router(folder / "r", configured, system={"restart_grace_sec": 0.001}, env=env) as running:
        yield running
        assert running.chat("other").status_code == 200
        assert "Traceback" not in running.log


def test_a_model_file_that_is_cut_under_a_running_child(models: Models, starved: RunningRouter) -> None:
    """What of it is read anew ends the child by SIGBUS, and there is no other to be had of what is left."""
    assert starved.chat("cut").status_code == starved.chat("other").status_code == 200
    file, other = Path(starved.models["cut"]["model_path"]), starved.status("other")["pid"]
    os.truncate(file, 4096)
    error = expect_error(starved.chat("cut"), 503, code="model_failed")
    assert str(file) in error["message"]
    assert "cut ended: llama-server was killed by SIGBUS" in starved.log
    assert starved.status("cut")["status"] == "failed"
    assert starved.chat("other").status_code == 200
    assert starved.status("other")["pid"] == other
    shutil.copy(models.chat, file)
    assert starved.client.post("/v1/models/cut/reset").status_code == 200
    assert starved.chat("cut").status_code == 200


def test_memory_that_the_kernel_refuses(starved: RunningRouter) -> None:
    error = expect_error(starved.chat("greedy"), 503, code="model_failed")
    assert re.search(r"failed to allocate (CPU )?buffer of size 1073741824", error["message"])
    assert starved.log.count("loading greedy (replica") == 2, "once more, with more room"
