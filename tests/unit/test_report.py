"""The table of `models`."""

from __future__ import annotations

from pathlib import Path

from router.config import ModelConfig, Settings
from router.core.types import HOST, Device, DeviceKind, DeviceReading
from router.inventory import inventory
from router.report import models_table
from scripts.make_demo_models import ModelSpec, write_model

GIB = 1024**3


def test_a_header_that_can_be_read_and_makes_no_sense_is_told(tmp_path: Path) -> None:
    file = write_model(tmp_path / "m.gguf", ModelSpec())
    content = bytearray(file.read_bytes())
    count = content.index(b"llama.block_count") + len("llama.block_count") + 4
    content[count : count + 4] = b"\xff" * 4
    file.write_bytes(content)
    settings = Settings.build(models={"m": ModelConfig(model_path=file)}, folder=tmp_path)
    table = models_table(
        inventory(settings, gpu_available=False),
        [Device(HOST, DeviceKind.HOST, None, "RAM", GIB, GIB)],
        [DeviceReading(HOST, GIB, 0, GIB)],
    )
    assert f"yes, on host, by its size alone: {file}: llama.block_count is 4,294,967,295" in table
