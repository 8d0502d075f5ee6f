"""Spoiled model files and settings are taken or refused in words, in little time and memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.config import load_settings
from router.errors import ConfigError
from tests.fuzz import configs, gguf_files
from tests.fuzz.budget import Budget
from tests.support.models import Models

SEED = 5


def test_spoiled_model_files(models: Models, tmp_path: Path) -> None:
    for file in (models.chat, models.embed):
        (tmp_path / file.name).symlink_to(file)
    outcome = gguf_files.fuzz(SEED, tmp_path, Budget(tries=150))
    assert outcome.tries[gguf_files.WORK] == 150
    assert not outcome.findings, str(outcome)


def test_spoiled_settings(tmp_path: Path) -> None:
    outcome = configs.fuzz(SEED, tmp_path, Budget(tries=200))
    assert not outcome.findings, str(outcome)


@pytest.mark.parametrize("name", ["CONFIG_PATH", "LLAMA_SERVER_PATH", "BASE_MODELS_PATH"])
def test_a_path_that_no_file_can_have_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=name):
        load_settings(environ={name: "x" * 5000}, cwd=tmp_path)
