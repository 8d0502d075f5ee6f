"""openai-python against a router: the version that is installed, and the major version before it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.router import ROOT, RunningRouter
from tests.support.sdk_golden_path import golden_path

pytestmark = pytest.mark.llama

PREVIOUS = ROOT / ".venv" / "sdk" / "openai-2"


def test_installed_version(running_router: RunningRouter) -> None:
    golden_path(
        base_url=f"{running_router.url}/v1",
        api_key=running_router.api_key,
        chat_model="chat",
        embedding_model="embed",
    )


def test_previous_version(running_router: RunningRouter) -> None:
    if not (PREVIOUS / "openai").is_dir():
        pytest.skip("the previous openai-python is not installed; scripts/test.sh does it")
    script = ROOT / "tests" / "support" / "sdk_golden_path.py"
    environ = {
        "PATH": os.environ.get("PATH", ""),
        "PYTHONPATH": str(PREVIOUS),
        "PYTHONWARNINGS": "error",
        "BASE_URL": f"{running_router.url}/v1",
        "API_KEY": running_router.api_key,
        "CHAT_MODEL": "chat",
        "EMBEDDING_MODEL": "embed",
    }
    done = subprocess.run(
        [sys.executable, str(script)], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2."), done.stdout
