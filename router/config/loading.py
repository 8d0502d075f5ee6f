"""From the world to settings: which file, what goes before it, and everything that is wrong with either."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from router.config.document import Document, read_document
from router.config.environment import DOTENV, Overrides, read_environment, read_overrides
from router.config.files import absolute, exists, is_file
from router.config.keys import read_keys
from router.config.models import ApiConfig, SystemConfig
from router.config.settings import Settings, assemble, with_absolute_paths
from router.errors import ConfigError, Problem

DEFAULT_FILE = "config.json"


_NAME_A_FILE = "copy config.example.json, or correct the path"


def config_file(config_path: Path | None, environ: Mapping[str, str], cwd: Path | None = None) -> Path | None:
    """The file that would be read: the command line's, else CONFIG_PATH's, else `config.json` in `cwd` if there is one.

    Raises ConfigError when a file is named but not there.
    """
    cwd = cwd or Path.cwd()
    if config_path is not None:
        return _named(config_path, "--config", cwd)
    if named := read_environment(environ, cwd).get("CONFIG_PATH"):
        return _named(Path(named), "CONFIG_PATH", cwd)
    default = cwd / DEFAULT_FILE
    return default if exists(default) else None


def _named(path: Path, by: str, cwd: Path) -> Path:
    file = absolute(path, cwd)
    if not is_file(file):
        raise ConfigError(str(file), [Problem(by, "not a file" if exists(file) else "no such file", _NAME_A_FILE)])
    return file


def load_settings(
    *,
    config_path: Path | None = None,
    environ: Mapping[str, str],
    host: str | None = None,
    port: int | None = None,
    cwd: Path | None = None,
) -> Settings:
    """The settings. Precedence: command line > environment > `.env` > file > default.

    Without any file the defaults hold, with the models below BASE_MODELS_PATH if that is set, else with none.

    Args:
        config_path, host, port: from the command line.
        environ: the real environment; `.env` in `cwd` is read here.
        cwd: what relative paths outside the file are relative to.

    Raises ConfigError with every problem at once.
    """
    cwd = cwd or Path.cwd()
    environ, dotenv = read_environment(environ, cwd), cwd / DOTENV
    source = config_file(config_path, environ, cwd)
    problems: list[Problem] = []
    overrides = read_overrides(environ, cwd, host=host, port=port, problems=problems)
    document = read_document(source, problems) if source else Document()
    folder = source.parent if source else cwd
    system = _override_system(with_absolute_paths(document.system, folder, cwd), overrides)
    if source and not document.models:
        problems += _nothing_to_serve(system)
    problems += _binary_problems(system, "LLAMA_SERVER_PATH" if overrides.llama_server_path else None)
    return assemble(
        api=_override_api(document.api, overrides),
        system=system,
        models=document.models,
        folder=folder,
        source=source,
        dotenv=dotenv if is_file(dotenv) else None,
        keys=read_keys(environ, document.api, folder, problems),
        base_key="BASE_MODELS_PATH" if overrides.base_models_path else "system.base_models_path",
        problems=problems,
    )


def _nothing_to_serve(system: SystemConfig) -> list[Problem]:
    """A file without models is fine where models are looked for; the folder may be filled later."""
    if system.discover_models is False:
        return [Problem("models", "no models, and none are looked for", "add one, or remove discover_models")]
    if system.base_models_path is None and system.discover_models is None:
        return [Problem("models", "no models, and no folder to look in", "add one, or set system.base_models_path")]
    return []


def _binary_problems(system: SystemConfig, variable: str | None) -> list[Problem]:
    """A llama-server that was named must be there; one that is not is looked for at the first use."""
    path = system.llama_server_path
    if path is None or (is_file(path) and os.access(path, os.X_OK)):
        return []
    fault = "is not a program that can be run" if exists(path) else "no such file"
    where = variable or "system.llama_server_path"
    return [Problem(where, f"{fault}: {path}", "name llama-server itself, or leave it out for the embedded llama.cpp")]


def _override_api(api: ApiConfig, overrides: Overrides) -> ApiConfig:
    return api.model_copy(update=_given(host=overrides.host, port=overrides.port))


def _override_system(system: SystemConfig, overrides: Overrides) -> SystemConfig:
    return system.model_copy(
        update=_given(llama_server_path=overrides.llama_server_path, base_models_path=overrides.base_models_path)
    )


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
