"""Spoiled configuration files, `.env` files and environments: refused in words, or taken; never anything else."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from time import thread_time
from typing import Any

from router.config import load_settings
from router.config.environment import VARIABLES
from router.config.models import ApiConfig, ModelConfig, SystemConfig
from router.errors import ConfigError
from tests.fuzz.budget import Budget
from tests.fuzz.mutation import NONSENSE, Mutator
from tests.fuzz.outcome import Finding, Kind, Outcome

WORK = "config"
_STUCK_MS = 2_000.0
_EXAMPLE = Path(__file__).resolve().parents[2] / "config.example.json"
_ENV_LINES = ("API_KEY=x", "ROUTER_PORT=8000", "METRICS_TOKEN='a b'", "# a comment", "export ROUTER_HOST=::1", "X=$Y",
              "=", 'A="', "\x00=\x00", "BASE_MODELS_PATH=.")  # fmt: skip
_LONGEST_MESSAGE = 200_000


def fuzz(seed: int, folder: Path, budget: Budget) -> Outcome:
    """Read spoiled settings from `folder`."""
    outcome = Outcome()
    for model in ("qwen2.5-7b-instruct-q4_k_m.gguf", "nomic-embed-text-v1.5.f16.gguf"):
        (folder / model).write_bytes(b"GGUF")
    for number in budget:
        random = Random(f"{seed}/{number}")
        text, environ = _document(random), _environment(random)
        (folder / "config.json").write_bytes(text)
        (folder / ".env").write_bytes(_dotenv(random))
        outcome.tries[WORK] += 1
        began = thread_time()
        fault = _fault(folder, environ)
        took = 1000 * (thread_time() - began)
        outcome.slowest[WORK] = max(took, outcome.slowest.get(WORK, 0.0))
        if fault is not None:
            outcome.findings.append(Finding(Kind.CRASH, WORK, f"{fault}; environment {environ}", text))
        if took > _STUCK_MS:
            outcome.findings.append(Finding(Kind.HANG, WORK, f"{took:.0f} ms", text))
    return outcome


def _document(random: Random) -> bytes:
    example = json.loads(_EXAMPLE.read_text(encoding="utf-8"))
    example["system"] |= {"base_models_path": ".", "gpu_devices": []}
    for section, kind in (("api", ApiConfig), ("system", SystemConfig)):
        for name in random.sample(sorted(kind.model_fields), 3):
            example[section][name] = random.choice(NONSENSE)
    model: dict[str, Any] = random.choice(list(example["models"].values()))
    model[random.choice(sorted(ModelConfig.model_fields))] = random.choice(NONSENSE)
    return Mutator(random).body(example)


def _environment(random: Random) -> dict[str, str]:
    """As `os.environ` has it: bytes that are no UTF-8 are surrogates there, and there is no zero byte."""
    names = random.sample(VARIABLES, random.choice((0, 0, 1, 3)))
    words = [str(word) for word in NONSENSE if "\x00" not in str(word)] + [
        "\udcff",
        "config.json",
        "/dev/null",
        "~",
        "a\nb",
    ]
    return {name: random.choice(words) for name in names}


def _dotenv(random: Random) -> bytes:
    lines = "\n".join(random.sample(_ENV_LINES, random.choice((0, 0, 0, 2)))).encode()
    return Mutator(random).torn(lines) if lines and random.random() < 0.5 else lines


def _fault(folder: Path, environ: dict[str, str]) -> str | None:
    """What is wrong with the way that these settings are taken; None if they are read, or refused in words."""
    try:
        load_settings(environ=environ, cwd=folder)
    except ConfigError as error:
        told = str(error)
        if not error.problems or len(told) > _LONGEST_MESSAGE:
            return f"told {len(error.problems)} problems in {len(told)} characters"
        told.encode("utf-8", "backslashreplace")
    except Exception as error:  # noqa: BLE001 - which is what is looked for
        return f"{type(error).__name__}: {error}"
    return None
