"""The estimate from the file alone against what llama.cpp reports after the load."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from router.backends.memory_lines import Buffer, buffers
from router.core.estimate import project, read_run, read_shape
from router.devices.gguf import read_header
from router.devices.host import repacked_types
from scripts.make_demo_models import ModelSpec, write_model
from tests.support.router import free_port
from tests.support.waiting import wait_until

EMBEDDED = (sys.executable, "-m", "router.backends.embedded")


@contextmanager
def loaded(model: Path, flags: list[str], log: Path) -> Iterator[list[Buffer]]:
    """Its buffers, once it has told of the last one of them."""
    argv = [*EMBEDDED, "-m", str(model), *flags, "-lv", "4", "-t", "1", "--port", str(free_port())]
    with log.open("wb") as output, subprocess.Popen(argv, stdout=output, stderr=output) as process:
        try:
            wait_until(
                lambda: "new slot" in log.read_text(errors="replace") or process.poll() is not None,
                60,
                "its last buffer",
            )
            yield list(buffers(log.read_text(errors="replace").splitlines()))
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("architecture", "flags"),
    [
        ("llama", ["-c", "8192", "-np", "2"]),
        ("qwen3", ["-c", "4096", "-np", "1", "-ctk", "q8_0", "-ctv", "q8_0"]),
        ("gemma3", ["-c", "8192", "-np", "4"]),
        ("bert", ["-c", "2048", "-np", "1", "--embedding"]),
    ],
)
def test_each_kind_of_buffer(architecture: str, flags: list[str], tmp_path: Path) -> None:
    spec = ModelSpec(architecture=architecture, layers=6, embd=256, ff=512, heads=4, kv_heads=4)
    model = write_model(tmp_path / "m.gguf", spec)
    header = read_header(model)
    shape, run = read_shape(header.metadata, header.tensors), read_run(flags, slots=1)
    expected = project([header.tensors], shape, run, repacked=repacked_types()).host
    with loaded(model, flags, tmp_path / "log") as found:
        assert found, (tmp_path / "log").read_text(errors="replace")[-2000:]
    for kind, tolerance in (("weights", 0.01), ("cache", 0.01), ("compute", 0.25)):
        reported = sum(buffer.bytes for buffer in found if buffer.kind == kind)
        assert getattr(expected, kind) == pytest.approx(reported, rel=tolerance, abs=8192), kind
