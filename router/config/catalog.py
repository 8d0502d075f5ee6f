"""All models together: whose names clash, where the files are, what is found beside what is written down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from router.config.discovery import Discovered, discover
from router.config.files import FileRefused, is_folder, locate
from router.config.models import ModelConfig, SystemConfig
from router.config.names import name_fault
from router.config.problems import key_path, shown
from router.devices.gguf import GgufError, read_header
from router.errors import Problem


@dataclass(slots=True)
class Catalog:
    """What `build_catalog` collects.

    Attributes:
        models: by canonical name, as configured, discovered ones at the end.
        files: absolute path of each model's (first) file.
        names: every name and alias -> canonical name.
        notes: what was left out on purpose, for the log.
    """

    models: dict[str, ModelConfig] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def build_catalog(
    models: Mapping[str, ModelConfig | None], system: SystemConfig, anchor: Path, base_key: str, problems: list[Problem]
) -> Catalog:
    """Check what one model alone cannot show; what is wrong goes into `problems`.

    Args:
        models: as written; None = broken, only its name counts.
        system: with absolute paths.
        anchor: folder of relative model paths where there is no base path.
        base_key: where the base path was written.
    """
    catalog = Catalog()
    base = system.base_models_path
    base_usable = base is None or _check_base(base, base_key, problems)
    _add_names(catalog, models, problems)
    for name, model in models.items():
        if model is not None and (base_usable or model.model_path.is_absolute()):
            _add_model(catalog, name, model, base or anchor, problems)
    wanted = not models if system.discover_models is None else system.discover_models
    if wanted and base is not None and base_usable:
        _add_discovered(catalog, base)
    elif system.discover_models and base is None:
        problems.append(
            Problem(
                "system.discover_models", "needs a folder to look in", "set system.base_models_path or BASE_MODELS_PATH"
            )
        )
    return catalog


def _check_base(base: Path, key: str, problems: list[Problem]) -> bool:
    if is_folder(base):
        return True
    problems.append(Problem(key, f"expected a folder, got {shown(str(base))}", "create it, or correct the path"))
    return False


def _add_names(catalog: Catalog, models: Mapping[str, ModelConfig | None], problems: list[Problem]) -> None:
    for name in models:
        if fault := name_fault(name):
            problems.append(Problem(key_path(("models", name)), fault))
        catalog.names[name] = name
    for name, model in models.items():
        for position, alias in enumerate(model.aliases if model else ()):
            owner = catalog.names.setdefault(alias, name)
            if owner != name or alias == name or alias in (model.aliases[:position] if model else ()):
                where = key_path(("models", name, "aliases", position))
                problems.append(Problem(where, f"{shown(alias)} is a name of {key_path(('models', owner))} already"))


def _add_model(catalog: Catalog, name: str, model: ModelConfig, root: Path, problems: list[Problem]) -> None:
    try:
        catalog.files[name] = locate(model.model_path, root)
    except FileRefused as refusal:
        where = key_path(("models", name, "model_path"))
        written = str(model.model_path)
        message = str(refusal) if written in str(refusal) else f"{refusal}, got {shown(written)}"
        problems.append(Problem(where, message, refusal.hint))
    else:
        catalog.models[name] = model


def _add_discovered(catalog: Catalog, base: Path) -> None:
    known = {file.resolve() for file in catalog.files.values()}
    found, notes = discover(base, taken_names=catalog.names, taken_files=known)
    catalog.notes += notes
    for one in found:
        catalog.models[one.name] = ModelConfig(model_path=one.file, flags=_flags(one))
        catalog.files[one.name] = one.file
        catalog.names[one.name] = one.name
    if not catalog.models:
        catalog.notes.append(f"{base}: no *.gguf below it")


def _flags(found: Discovered) -> tuple[str, ...]:
    """What a model needs beside its file: its projector, and for one that embeds or ranks to be started for that."""
    projector = ("--mmproj", str(found.mmproj)) if found.mmproj else ()
    try:
        header = read_header(found.file)
    except GgufError:  # its load will say so
        return projector
    if header.is_reranker:
        return (*projector, "--reranking")
    return (*projector, "--embedding") if header.is_embedding else projector
