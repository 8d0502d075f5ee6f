"""openai-node and Anthropic's SDK for Node against a router. They are installed once, into pytest's cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.models import TOOLS, Models
from tests.support.router import ROOT, RunningRouter, router

pytestmark = pytest.mark.llama

PACKAGE = ROOT / "tests" / "sdk" / "node"
MANIFEST = ("package.json", "package-lock.json", ".npmrc")
INSTALL_DEADLINE, SCRIPT_DEADLINE = 120, 60


@pytest.fixture(scope="module")
def node_package(pytestconfig: pytest.Config) -> Path:
    """A folder with the scripts and the SDKs that they import."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    wanted = hashlib.sha256(b"".join((PACKAGE / name).read_bytes() for name in MANIFEST)).hexdigest()[:16]
    folder = pytestconfig.cache.mkdir("node-sdks") / wanted
    if not (folder / "installed").is_file():
        install(folder)
    for script in PACKAGE.glob("*.mjs"):
        shutil.copy(script, folder)
    return folder


def install(folder: Path) -> None:
    """Exactly what the lock file says, with its checksums, without running any script of a package."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in MANIFEST:
        shutil.copy(PACKAGE / name, folder)
    try:
        done = subprocess.run(
            ["npm", "ci", "--ignore-scripts", "--fetch-retries=1", "--prefer-offline"],
            cwd=folder, capture_output=True, text=True, timeout=INSTALL_DEADLINE, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm could not install the SDKs within {INSTALL_DEADLINE} s; is there a network?")
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if line.startswith("npm error")), done.stderr)
        pytest.skip(f"npm could not install the SDKs: {reason}")
    (folder / "installed").touch()


@pytest.fixture(scope="module")
def small_router(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    """One that soon has enough: of waiting requests, and of their bytes."""
    configured = {
        "chat": models.entry("chat", *TOOLS),
        "embed": models.entry("embed"),
        "busy": models.entry("slow", "-np", "1"),
    }
    with router(
        tmp_path_factory.mktemp("small"),
        configured,
        api={"max_body_mb": 1, "max_buffered_mb": 1},
        system={"max_concurrent_models": 3, "max_queue_size_per_model": 1},
        api_key="test-key",
    ) as running:
        yield running
        assert running.process.poll() is None
        assert "Traceback" not in running.log


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
def test_golden_path(node_package: Path, small_router: RunningRouter, sdk: str) -> None:
    environ = {
        "PATH": os.environ.get("PATH", ""),
        "BASE_URL": small_router.url,
        "API_KEY": small_router.api_key,
        "CHAT_MODEL": "chat",
        "EMBEDDING_MODEL": "embed",
        "BUSY_MODEL": "busy",
    }
    done = subprocess.run(
        ["node", f"{sdk}_golden_path.mjs"],
        cwd=node_package, env=environ, capture_output=True, text=True, timeout=SCRIPT_DEADLINE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
