"""The environment: `.env` below the real one, and the variables that mean something to the router."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dotenv.parser import parse_stream
from pydantic import ValidationError

from router.config.files import absolute
from router.config.keys import VARIABLES as KEYS
from router.config.models import MAX_PORT, ApiConfig
from router.config.problems import problems_of, shown
from router.errors import ConfigError, Problem

VARIABLES = (
    "CONFIG_PATH",
    "ROUTER_HOST",
    "ROUTER_PORT",
    "LLAMA_SERVER_PATH",
    "BASE_MODELS_PATH",
    *KEYS,
)


DOTENV = ".env"


@dataclass(frozen=True, slots=True)
class Overrides:
    """What command line and environment say; None = nothing. Paths are absolute."""

    host: str | None = None
    port: int | None = None
    llama_server_path: Path | None = None
    base_models_path: Path | None = None


def read_environment(environ: Mapping[str, str], cwd: Path) -> Mapping[str, str]:
    """The variables of `environ`, and below them those of `.env` in `cwd`. An empty value counts as not set.

    Nothing is interpolated: a `$` in a value is a dollar sign. `os.environ` stays as it is.

    Raises ConfigError when `.env` is there but cannot be read.
    """
    return {name: value for name, value in (_read_dotenv(cwd / DOTENV) | _without_empty(environ)).items() if value}


def _without_empty(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if value}


def _read_dotenv(file: Path) -> dict[str, str]:
    if not file.is_file():
        return {}
    try:
        with file.open(encoding="utf-8-sig") as stream:
            bindings = list(parse_stream(stream))
    except OSError as error:
        raise ConfigError(str(file), [Problem("", f"cannot be read: {error.strerror}")]) from None
    except UnicodeDecodeError as error:
        raise ConfigError(str(file), [Problem("", f"not UTF-8 at byte {error.start}")]) from None
    # Lines may hold secrets: only their numbers are told.
    problems = [
        Problem("", f"line {binding.original.line} is not NAME=value", "quote values with spaces; # begins a comment")
        for binding in bindings
        if binding.error
    ]
    if problems:
        raise ConfigError(str(file), problems)
    return {binding.key: binding.value for binding in bindings if binding.key and binding.value}


def read_overrides(
    environ: Mapping[str, str], cwd: Path, *, host: str | None, port: int | None, problems: list[Problem]
) -> Overrides:
    """What goes before the file; what is wrong with it goes into `problems`."""
    return Overrides(
        host=_host(environ, host, problems),
        port=_port(environ, port, problems),
        llama_server_path=_path(environ, "LLAMA_SERVER_PATH", cwd),
        base_models_path=_path(environ, "BASE_MODELS_PATH", cwd),
    )


def _host(environ: Mapping[str, str], host: str | None, problems: list[Problem]) -> str | None:
    name, value = ("--host", host) if host is not None else ("ROUTER_HOST", environ.get("ROUTER_HOST"))
    if value is None:
        return None
    try:
        return ApiConfig(host=value).host
    except ValidationError as error:
        found = problems_of(error, ())[0]
        problems.append(Problem(name, found.message, found.hint))
        return None


def _port(environ: Mapping[str, str], port: int | None, problems: list[Problem]) -> int | None:
    name, text = ("--port", str(port)) if port is not None else ("ROUTER_PORT", environ.get("ROUTER_PORT"))
    if text is None:
        return None
    if re.fullmatch(r"[0-9]{1,5}", text) and int(text) <= MAX_PORT:
        return int(text)
    problems.append(Problem(name, f"expected a port from 0 to {MAX_PORT}, got {shown(text)}", "0 = any free port"))
    return None


def _path(environ: Mapping[str, str], name: str, cwd: Path) -> Path | None:
    value = environ.get(name)
    return absolute(Path(value), cwd) if value else None
