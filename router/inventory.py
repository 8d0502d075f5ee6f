"""From the configuration to what the engine, the launcher and the `models` table want to know of each model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from router.backends.llama_server import LlamaServerSpec
from router.config import ModelConfig, Settings, flag_value
from router.core.estimate import estimate
from router.core.types import ModelSpec, Need

MIB = 1024**2

# The prompt cache of each child in host RAM. llama-server's own default, 8 GiB a child, is more than many hosts have.
CACHE_RAM_MB = 512
# What llama-server takes `-1`, "no limit", to be is not bookable; its default is.
_UNLIMITED_CACHE_RAM_MB = 8192

_CACHE_RAM_FLAGS = ("-cram", "--cache-ram")
# Files that are loaded beside the model itself.
_FILE_FLAGS = (("-mm", "--mmproj"), ("--lora",), ("-md", "--model-draft", "--spec-draft-model"))


@dataclass(frozen=True, slots=True)
class Entry:
    """One model as configured: its files and what it is expected to take."""

    name: str
    config: ModelConfig
    files: tuple[Path, ...]
    file_bytes: int
    slots: int
    cache_ram_mb: int
    need: Need

    def model_spec(self, settings: Settings) -> ModelSpec:
        return ModelSpec(
            self.name,
            self.slots,
            self.need,
            settings.idle_timeout(self.name),
            pinned=self.config.pinned,
            evict_cost=self.config.evict_cost,
            exclusive_with=settings.exclusive_with(self.name),
        )

    def launch_spec(self) -> LlamaServerSpec:
        return LlamaServerSpec(
            model_path=self.files[0],
            flags=tuple(self.config.flags),
            env=dict(self.config.env),
            slots=self.slots,
            files=self.files,
            has_conversations=not self.config.writes_no_text,
        )


def inventory(settings: Settings, *, gpu_available: bool) -> tuple[Entry, ...]:
    """All models in the order of the configuration."""
    return tuple(_entry(settings, name, gpu_available=gpu_available) for name in settings.models)


def _entry(settings: Settings, name: str, *, gpu_available: bool) -> Entry:
    config = settings.models[name]
    files = settings.model_files(name)
    file_bytes = sum(_size(file) for file in (*files, *_further_files(config, working_dir(settings))))
    cache_ram_mb = _cache_ram_mb(config)
    need = estimate(
        file_bytes=file_bytes,
        multiplier=settings.system.vram_multiplier,
        gpu_available=gpu_available,
        flags=config.flags,
        cache_ram=cache_ram_mb * MIB,
    )
    return Entry(name, config, files, file_bytes, settings.slots(name), cache_ram_mb, need)


def working_dir(settings: Settings) -> Path:
    """What relative paths in flags are relative to, as relative model paths are."""
    return settings.system.base_models_path or (settings.source.parent if settings.source else Path.cwd())


def _further_files(config: ModelConfig, folder: Path) -> list[Path]:
    values = [flag_value(config.flags, *names) for names in _FILE_FLAGS]
    return [folder / value for value in values if value is not None]


def _size(file: Path) -> int:
    """Bytes of a file; one that is gone counts nothing here and fails at its load, with its name."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _cache_ram_mb(config: ModelConfig) -> int:
    value = flag_value(config.flags, *_CACHE_RAM_FLAGS)
    if value is None:
        return CACHE_RAM_MB
    try:
        asked = int(value)
    except ValueError:
        return CACHE_RAM_MB  # llama-server will refuse it and say so
    return asked if asked >= 0 else _UNLIMITED_CACHE_RAM_MB
