"""The three kinds of settings, as strict frozen models: a wrong type or an unknown key is an error, never a guess.

The tables of docs/configuration.md are tested against these classes.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError

from router.config.flags import (
    EMBEDDING_FLAGS,
    PARALLEL_FLAGS,
    PROJECTOR_FLAGS,
    PROJECTOR_VARIABLE,
    flag_name,
    flag_value,
    has_flag,
    owned_flag,
    owned_variable,
)
from router.config.names import name_fault

MAX_PORT = 65535
DIGEST = "sha256:"  # begins a key of which only the digest is written
OTHER_KEYS = ("admin", "metrics")  # names of ADMIN_API_KEY and METRICS_TOKEN
MAX_REPLICAS = 64
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[^\s/:?#@\[\]]+)(:\d{1,5})?", re.IGNORECASE)

_HOST_NAME = re.compile(r"\*|(\*\.)?[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?", re.IGNORECASE)
_KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_UNUSABLE = re.compile(r"[\x00\ud800-\udfff]")  # no process can be handed these


def refuse(message: str, hint: str = "") -> PydanticCustomError:
    """An error of ours inside pydantic: the sentence as it is, and the next step."""
    return PydanticCustomError("refused", "{message}", {"message": message, "hint": hint})


def _to_path(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not value or re.search(r"[\x00-\x1f]", value) or _UNUSABLE.search(value):
        raise refuse("expected a path: not empty, no control characters")
    return Path(value)


def _to_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _check_host(value: str) -> str:
    if not re.fullmatch(r"[^\s/\[\]]+", value) or not value.isprintable():
        raise refuse("expected an address or a host name", 'e.g. "127.0.0.1", "0.0.0.0" or "::"')
    return value


def _check_origin(value: str) -> str:
    if value != "*" and not (_ORIGIN.fullmatch(value) and value.isascii()):
        raise refuse(
            'expected "*" or scheme://host[:port]', 'no path and no slash at the end: "https://chat.example.org"'
        )
    return value.lower()


def _check_allowed_host(value: str) -> str:
    if not _HOST_NAME.fullmatch(value):
        raise refuse(
            'expected a host name, "*.domain" or "*"', 'no scheme, no port: "llm.example.org". Addresses are allowed'
        )
    return value.lower()


def key_name_fault(name: str) -> str | None:
    """What is wrong with the name of a client's key; None when it is fine."""
    if name in OTHER_KEYS:
        return f"`{name}` is the name of {'ADMIN_API_KEY' if name == OTHER_KEYS[0] else 'METRICS_TOKEN'}"
    return None if _KEY_NAME.fullmatch(name) else "expected a name of 1 to 64 letters, digits, `.`, `_` and `-`"


def _check_key_name(name: str) -> str:
    if fault := key_name_fault(name):
        raise refuse(fault)
    return name


def _to_key_source(value: Any) -> Any:
    return {"key": value} if isinstance(value, str) else value


def _check_network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        raise refuse("expected an address or a network", 'e.g. "127.0.0.1", "10.0.0.0/8" or "::1"') from None


def _check_devices(value: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(value)) != len(value):
        raise refuse(f"expected each device once, got {list(value)}")
    return value


def _check_flag(value: str) -> str:
    if _UNUSABLE.search(value):
        raise refuse("expected text that a command line can hold: no NUL, no half of a surrogate pair")
    if rule := owned_flag(value):
        raise refuse(f"{flag_name(value)} belongs to the router", rule.why)
    if two := re.fullmatch(r"(--?[a-z][\w-]*)\s+(\S+)", value):
        raise refuse("a flag and its value are two elements of the list", f'write "{two[1]}", "{two[2]}"')
    return value


def _check_flags(flags: tuple[str, ...]) -> tuple[str, ...]:
    value = flag_value(flags, *PARALLEL_FLAGS)
    if has_flag(flags, *PARALLEL_FLAGS) and not re.fullmatch(r"[1-9]\d{0,3}", value or ""):
        raise refuse(f"expected a whole number from 1 to 9999 after -np, got {value or 'nothing'}")
    return flags


def _check_variable(name: str) -> str:
    if not name or "=" in name or _UNUSABLE.search(name):
        raise refuse("expected the name of an environment variable: not empty, without `=`")
    if rule := owned_variable(name):
        raise refuse(f"{name} belongs to the router", rule.why)
    return name


def _check_variable_value(value: str) -> str:
    if _UNUSABLE.search(value):
        raise refuse("expected text that an environment can hold: no NUL, no half of a surrogate pair")
    return value


def _check_name(name: str) -> str:
    if fault := name_fault(name):
        raise refuse(fault)
    return name


def _check_offsets(offsets: PriorityOffsets) -> PriorityOffsets:
    if not offsets.high <= offsets.normal <= offsets.low:
        found = f"high {offsets.high:g}, normal {offsets.normal:g}, low {offsets.low:g}"
        raise refuse(f"expected high <= normal <= low, got {found}", "a more urgent class may not wait longer")
    return offsets


Count = Annotated[int, Field(ge=1)]
_LONGEST_SEC = 1e9  # thirty years: as good as never, and still a date that can be told
Seconds = Annotated[float, Field(gt=0, le=_LONGEST_SEC, allow_inf_nan=False)]
MaybeSeconds = Annotated[float, Field(ge=0, le=_LONGEST_SEC, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PingInterval = Annotated[float, Field(gt=0, le=60, allow_inf_nan=False)]  # many clients give a silent server 60 s
ClientTimeout = Annotated[float, Field(ge=1, le=3600, allow_inf_nan=False)]
FilePath = Annotated[Path, BeforeValidator(_to_path)]
Variable = Annotated[str, AfterValidator(_check_variable)]
VariableValue = Annotated[str, AfterValidator(_check_variable_value)]
KeyName = Annotated[str, AfterValidator(_check_key_name)]
FromList = BeforeValidator(_to_tuple)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", protected_namespaces=())


class KeySource(_Section):
    """Where a client's key is: here, in a file, or in an environment variable."""

    key: SecretStr | None = None
    key_file: FilePath | None = None
    key_env: str | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if len(self.model_fields_set) != 1 or None in (getattr(self, name) for name in self.model_fields_set):
            raise refuse('expected the key, or one of {"key": …}, {"key_file": …}, {"key_env": …}')
        return self


class ApiConfig(_Section):
    """`api`: where the router listens, and what and whom it accepts. Sizes are MiB.

    Attributes:
        allowed_hosts: names by which clients without a key may call the router.
        api_keys: by name.
        log_prompts: what is asked and answered may be logged.
        allow_remote_media: models may fetch what requests name by address.
    """

    host: Annotated[str, AfterValidator(_check_host)] = "0.0.0.0"
    port: Annotated[int, Field(ge=0, le=MAX_PORT)] = 8000
    cors_origins: Annotated[tuple[Annotated[str, AfterValidator(_check_origin)], ...], FromList] = ()
    max_body_mb: Count = 64
    max_buffered_mb: Count = 1024
    max_text_mb: Count = 8
    api_keys: Mapping[KeyName, Annotated[KeySource, BeforeValidator(_to_key_source)]] = Field(
        default_factory=dict, repr=False
    )
    allow_unauthenticated: bool = False
    allowed_hosts: Annotated[tuple[Annotated[str, AfterValidator(_check_allowed_host)], ...], FromList] = ()
    log_prompts: bool = False
    allow_remote_media: bool = False
    stream_ping_sec: PingInterval = 15.0
    send_timeout_sec: ClientTimeout = 60.0
    header_timeout_sec: ClientTimeout = 20.0
    body_timeout_sec: ClientTimeout = 60.0
    keep_alive_sec: ClientTimeout = 75.0
    max_connections: Count = 12_000
    max_connections_per_peer: Count = 1024
    max_open_requests: Count = 4096
    forwarded_allow_ips: Annotated[tuple[Annotated[str, AfterValidator(_check_network)], ...], FromList] = ()


class PriorityOffsets(_Section):
    """`system.priority_offsets_sec`: how long a request of each class may wait before it presses others, in seconds."""

    high: MaybeSeconds = 0.0
    normal: MaybeSeconds = 10.0
    low: MaybeSeconds = 60.0


class SystemConfig(_Section):
    """`system`: what the router runs, and within which limits. Durations are seconds, sizes MiB.

    Relative paths are as written here; in `Settings.system` they are absolute.
    """

    llama_server_path: FilePath | None = None
    base_models_path: FilePath | None = None
    discover_models: bool | None = None  # None = when `models` is empty
    max_concurrent_models: Count = 3
    preload_models: Annotated[tuple[str, ...], FromList] = ()
    enable_idle_timeout: bool = True
    idle_timeout_sec: Seconds = 300.0
    request_timeout_sec: Seconds = 120.0
    generation_timeout_sec: Seconds = 3600.0
    queue_timeout_sec: Seconds = 240.0
    load_timeout_sec: Seconds = 600.0
    gpu_devices: Annotated[
        tuple[Annotated[int, Field(ge=0)], ...],
        FromList,
        AfterValidator(_check_devices),
    ] = (0,)
    default_parallel: Count = 1
    max_queue_size_per_model: Count = 500
    priority_offsets_sec: Annotated[PriorityOffsets, AfterValidator(_check_offsets)] = PriorityOffsets()
    min_residency_sec: MaybeSeconds | None = None  # None = by the measured load time
    vram_multiplier: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.1
    memory_budget_mb: Count | None = None
    base_port: Annotated[int, Field(ge=1, le=MAX_PORT)] = 8085
    health_interval_sec: Seconds = 30.0
    health_failures: Count = 3
    restart_grace_sec: Seconds = 10.0
    drain_timeout_sec: NotNegative = 30.0
    max_rss_mb: Count | None = None
    state_dir: FilePath = Path(".llama-router")
    keep_conversations: bool = True
    keep_conversations_mb: Count = 4096


class ModelConfig(_Section):
    """`models.<alias>`: one model.

    Attributes:
        flags: handed to llama-server as they are, each flag and each value an element of its own.
        env: for the child alone. Values may be secret: never log them.
        idle_timeout_sec: None = `system.idle_timeout_sec`.
        max_rss_mb: None = `system.max_rss_mb`.
        exclusive_with: names or aliases of other models.
        min_replicas: kept in memory, as long as there is room.
        max_replicas: loaded at most when many wait and memory is idle.
    """

    model_path: FilePath
    flags: Annotated[
        tuple[Annotated[str, AfterValidator(_check_flag)], ...],
        FromList,
        AfterValidator(_check_flags),
    ] = ()
    env: Mapping[Variable, VariableValue] = Field(default_factory=dict, repr=False)
    aliases: Annotated[tuple[Annotated[str, AfterValidator(_check_name)], ...], FromList] = ()
    idle_timeout_sec: Seconds | None = None
    preload: bool = False
    pinned: bool = False
    evict_cost: NotNegative = 1.0
    exclusive_with: Annotated[tuple[str, ...], FromList] = ()
    max_rss_mb: Count | None = None
    min_replicas: Annotated[int, Field(ge=0, le=MAX_REPLICAS)] = 0
    max_replicas: Annotated[int, Field(ge=1, le=MAX_REPLICAS)] = 1

    @cached_property
    def writes_no_text(self) -> bool:
        """Its flags restrict the child to embedding or ranking."""
        return has_flag(self.flags, *EMBEDDING_FLAGS)

    @cached_property
    def has_projector(self) -> bool:
        """Its child sees or hears, so that requests may hold media."""
        named = any(PROJECTOR_VARIABLE in name.upper() for name in self.env)
        return named or has_flag(self.flags, *PROJECTOR_FLAGS)

    @cached_property
    def parallel(self) -> int | None:
        """Slots of a replica as the flags say; None = they do not."""
        value = flag_value(self.flags, *PARALLEL_FLAGS)
        return int(value) if value is not None else None


def parallel_slots(model: ModelConfig, default: int) -> int:
    """Slots of a replica: the number after `-np`/`--parallel` in the flags, else the default."""
    return default if model.parallel is None else model.parallel
