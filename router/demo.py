"""The demo: what a newcomer without a configuration gets."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from router.config import config_file, read_environment
from router.errors import DemoError

GENERATOR = Path(__file__).resolve().parent.parent / "scripts" / "make_demo_models.py"
CONFIG = "config.json"
_GENERATE_DEADLINE_SEC = 60.0


def wants_demo(config: Path | None, environ: Mapping[str, str], cwd: Path) -> bool:
    """Whether nothing says what to serve: no file, named or found, and no folder of models. Raises ConfigError."""
    return config_file(config, environ, cwd) is None and "BASE_MODELS_PATH" not in read_environment(environ, cwd)


def prepare_demo(folder: Path) -> Path:
    """Make the demo models in `folder` unless they are there; returns the configuration file that serves them.

    Runs the generator as a process of its own: it needs numpy, which the router does not want in memory. That takes
    a few tenths of a second, which a later start is spared. Raises DemoError.
    """
    if _is_made(folder):
        return folder / CONFIG
    command = [sys.executable, str(GENERATOR), "--demo", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GENERATE_DEADLINE_SEC, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DemoError(f"The demo models could not be made in {folder}: {error}") from error
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise DemoError(f"The demo models could not be made in {folder}: {last[0]}")
    return folder / CONFIG


def _is_made(folder: Path) -> bool:
    """Whether all of it is there, made by this version of the generator. The configuration is written last."""
    config = folder / CONFIG
    try:
        made = config.stat().st_mtime >= GENERATOR.stat().st_mtime
        models = json.loads(config.read_text(encoding="utf-8"))["models"].values()
        return made and all((folder / model["model_path"]).is_file() for model in models)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def welcome(url: str, model: str, *, folder: Path, with_key: bool) -> str:
    """What is printed once the demo listens."""
    key = ' -H "Authorization: Bearer $API_KEY"' if with_key else ""
    return f"""
  llama-router is running a demo, since there is no config.json here.
  Two small chat models and an embedding model with made-up weights (in {folder})
  are served by real llama.cpp. Try it:

    curl -N {url}/v1/chat/completions -H 'Content-Type: application/json'{key} \\
      -d '{{"model": "{model}", "stream": true, "messages": [{{"role": "user", "content": "Hello!"}}]}}'

  Your own models: copy config.example.json to config.json, name your GGUF files there, start again.
"""
