"""From the configuration to what the engine, the launcher and the `models` table want to know of each model."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from router.backends.llama_server import LlamaServerSpec
from router.companions import Companions
from router.config import ModelConfig, Settings, flag_value
from router.core.estimate import Projection
from router.core.estimate.run import Flags
from router.core.placement import unkept
from router.core.types import Device, ModelSpec, Need
from router.devices.host import repacked_types
from router.foresight import Machine, foresee

MIB = 1024**2

# The prompt cache of each child in host RAM. llama-server's own default, 8 GiB a child, is more than many hosts have.
CACHE_RAM_MB = 512
# What llama-server takes `-1`, "no limit", to be is not bookable; its default is.
_UNLIMITED_CACHE_RAM_MB = 8192

_CACHE_RAM_FLAGS = ("-cram", "--cache-ram")


@dataclass(frozen=True, slots=True)
class Origin:
    """Everything that a replica of a model is made from: with another origin it would be another one.

    Attributes:
        stamps: size and time of each of its files, and of those that its flags name: first of what is `loaded`.
        folder: what relative paths in flags are relative to.
    """

    files: tuple[Path, ...]
    stamps: tuple[tuple[int, int], ...]
    flags: tuple[str, ...]
    env: Mapping[str, str]
    slots: int
    folder: Path


@dataclass(frozen=True, slots=True)
class Entry:
    """One model as configured: its files and what it is expected to take.

    Attributes:
        fingerprint: see `Foresight`.
        parts: the need by place and kind, where the files' headers could be read.
        unreadable: why they could not.
        whole, contexts, checkpoints, checkpoint_bytes: see `Foresight`.
        stamps, folder: see `Origin`.
        machine: for which it was foreseen.
    """

    name: str
    config: ModelConfig
    files: tuple[Path, ...]
    file_bytes: int
    slots: int
    cache_ram_mb: int
    need: Need
    fingerprint: str = ""
    parts: Projection | None = None
    unreadable: str = ""
    whole: tuple[str, ...] = ()
    contexts: tuple[int, int] | None = None
    checkpoints: int | None = None
    checkpoint_bytes: int = 0
    stamps: tuple[tuple[int, int], ...] = ()
    folder: Path = Path()
    machine: Machine | None = None

    @property
    def origin(self) -> Origin:
        return Origin(self.files, self.stamps, self.config.flags, self.config.env, self.slots, self.folder)

    @property
    def companions(self) -> tuple[Path, ...]:
        return Companions.named(Flags(self.config.flags, self.config.env), self.folder).files

    @property
    def loaded(self) -> tuple[Path, ...]:
        """All that goes into memory."""
        return tuple(dict.fromkeys((*self.files, *self.companions)))

    def model_spec(self, settings: Settings) -> ModelSpec:
        max_rss_mb = settings.max_rss_mb(self.name)
        return ModelSpec(
            self.name,
            self.slots,
            self.need,
            settings.idle_timeout(self.name),
            pinned=self.config.pinned,
            evict_cost=self.config.evict_cost,
            exclusive_with=settings.exclusive_with(self.name),
            max_rss=None if max_rss_mb is None else max_rss_mb * MIB,
            min_replicas=self.config.min_replicas,
            max_replicas=self.config.max_replicas,
        )

    def doubts(self, settings: Settings) -> Iterator[str]:
        """What an operator should know of its memory, each in a sentence."""
        if self.unreadable:
            yield f"the memory of {self.name} is guessed from its size: {self.unreadable}"
        limit, expected = settings.max_rss_mb(self.name), self.need.host // MIB
        if limit is not None and limit <= expected:
            yield (
                f"max_rss_mb of {self.name} is {limit} MiB, but it is expected to take {expected} MiB of RAM: it will "
                "be started anew again and again; raise the limit well above that"
            )

    def launch_spec(self) -> LlamaServerSpec:
        return LlamaServerSpec(
            model_path=self.files[0],
            flags=tuple(self.config.flags),
            env=dict(self.config.env),
            slots=self.slots,
            files=self.files,
            companions=self.companions,
            has_conversations=not self.config.writes_no_text,
            whole=self.whole,
            contexts=self.contexts,
            checkpoints=self.checkpoints,
            checkpoint_bytes=self.checkpoint_bytes,
        )


def inventory(settings: Settings, *, gpu_available: bool, known: Iterable[Entry] = ()) -> tuple[Entry, ...]:
    """All models in the order of the configuration. Reads the headers of their files: blocking.

    Args:
        known: an earlier inventory; where nothing has changed since, its figures are taken.
    """
    machine = Machine(gpu_available, repacked_types(), settings.system.vram_multiplier)
    earlier = {entry.name: entry for entry in known}
    return tuple(_entry(settings, name, machine, earlier.get(name)) for name in settings.models)


def renewed(settings: Settings, entry: Entry) -> Entry | None:
    """An entry as its files are now; None while they are those that were read. Blocking."""
    files = entry.loaded
    if entry.machine is None or tuple(map(stamp, files)) == entry.stamps[: len(files)]:
        return None
    return _entry(settings, entry.name, entry.machine, None)


def kept_in_vain(specs: Iterable[ModelSpec], devices: Iterable[Device], *, places: int) -> Iterator[str]:
    """What is to be kept in memory (`min_replicas`) and will not all be, in sentences for people."""
    kept = {spec.name: spec for spec in specs if spec.min_replicas}
    if len(kept) > places:
        yield (
            f"min_replicas keeps {len(kept)} models in memory, and system.max_concurrent_models allows {places}: "
            "raise it, or keep fewer."
        )
    wanted = [(spec.name, spec.need, spec.min_replicas) for spec in kept.values()]
    for name, number, shortage in unkept(wanted, {device.id: device.capacity for device in devices}):
        why = "the next one would have to be cut to fit" if shortage is None else f"the next one {shortage.message}"
        yield f"models.{name}.min_replicas is {kept[name].min_replicas}, and memory for {number} is there: {why}."


def _entry(settings: Settings, name: str, machine: Machine, known: Entry | None) -> Entry:
    config, origin = settings.models[name], _origin(settings, name)
    if known is not None and (known.origin, known.machine) == (origin, machine):
        return replace(known, config=config)
    cache_ram_mb = _cache_ram_mb(config)
    seen = foresee(
        config,
        origin.files,
        slots=origin.slots,
        folder=origin.folder,
        reserve=cache_ram_mb * MIB,
        machine=machine,
    )
    return Entry(
        name,
        config,
        origin.files,
        seen.file_bytes,
        origin.slots,
        cache_ram_mb,
        seen.need,
        seen.fingerprint,
        seen.parts,
        seen.reason,
        seen.whole,
        seen.contexts,
        seen.checkpoints,
        seen.checkpoint_bytes,
        origin.stamps,
        origin.folder,
        machine,
    )


def _origin(settings: Settings, name: str) -> Origin:
    config, files, folder = settings.models[name], settings.model_files(name), working_dir(settings)
    companions = Companions.named(Flags(config.flags, config.env), folder).files
    named = [folder / flag for flag in config.flags if not flag.startswith("-")]
    stamps = tuple(map(stamp, dict.fromkeys((*files, *companions, *named))))
    return Origin(files, stamps, config.flags, config.env, settings.slots(name), folder)


def stamp(file: Path) -> tuple[int, int]:
    """Size and time of a file; zeros for what is none."""
    try:
        found = file.stat()
    except (OSError, ValueError):
        return 0, 0
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else (0, 0)


def working_dir(settings: Settings) -> Path:
    """What relative paths in flags are relative to, as relative model paths are."""
    return settings.system.base_models_path or (settings.source.parent if settings.source else Path.cwd())


def _cache_ram_mb(config: ModelConfig) -> int:
    value = flag_value(config.flags, *_CACHE_RAM_FLAGS)
    if value is None:
        return CACHE_RAM_MB
    try:
        asked = int(value)
    except ValueError:
        return CACHE_RAM_MB  # llama-server will refuse it and say so
    return asked if asked >= 0 else _UNLIMITED_CACHE_RAM_MB
