"""What the management routes take and answer; `/docs` is made from these models, and from those of `figures`.

Sizes: `…_bytes` are bytes, `…_mb` are units of 2^20 bytes, rounded down. Times: ISO 8601 in UTC, or seconds where the
name ends in `_sec`. Fields that do not apply are left out.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from router.core.types import ModelView, Priority, ReplicaView, Status
from router.telemetry.reloads import Reloads

MIB = 1 << 20

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]


class Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Request(Schema):
    model_config = ConfigDict(strict=True)


class WallClock:
    """Turns times of the engine's monotonic clock into the time of day, by the difference of the two now."""

    def __init__(self, monotonic_now: float) -> None:
        self._offset = time.time() - monotonic_now

    def at(self, moment: float | None) -> datetime | None:
        """The time of day, to the millisecond."""
        if moment is None:
            return None
        return datetime.fromtimestamp(round(moment + self._offset, 3), UTC)


class _Told(BaseModel):
    """A part of an error; one of a model's server may have further fields."""

    model_config = ConfigDict(extra="allow", frozen=True)


class ErrorDetail(_Told):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(_Told):
    """OpenAI's shape."""

    error: ErrorDetail


class AnthropicErrorDetail(_Told):
    type: str
    message: str


class AnthropicError(_Told):
    """Anthropic's shape."""

    type: Literal["error"]
    error: AnthropicErrorDetail
    request_id: str


class LoadRequest(_Request):
    """Start loading a model."""

    model: str = Field(description="alias, or one of its further names")
    wait: bool = Field(default=False, description="answer when it is ready, instead of at once")


class EjectRequest(_Request):
    """Unload a model."""

    model: str = Field(description="alias, or one of its further names")
    force: bool = Field(default=False, description="cut running generations instead of waiting for their end")


class ModelAction(Schema):
    """What became of the model that a request was about."""

    model: str
    status: Status


class Queued(Schema):
    """Waiting requests by class."""

    high: Count = 0
    normal: Count = 0
    low: Count = 0

    @classmethod
    def of(cls, view: ModelView) -> Self:
        return cls(**{priority.name.lower(): view.queued.get(priority, 0) for priority in Priority})


class ReplicaStatus(Schema):
    """One replica of a model: a llama-server of its own."""

    id: int = Field(description="never used twice")
    status: Status
    reason: str | None = Field(default=None, description="why it is in this state")
    port: int | None = None
    pid: int | None = None
    vram_mb: Count | None = Field(default=None, description="seen on GPUs; host RAM on a machine without a GPU")
    slots: Count
    busy: Count = Field(description="slots at work")
    loading_since: datetime | None = None
    loaded_at: datetime | None = None
    last_used: datetime | None = None

    @classmethod
    def of(cls, view: ReplicaView, clock: WallClock, *, memory: int, port: int | None, pid: int | None) -> Self:
        """Describe `view`; `memory` is what it is seen to hold, in bytes."""
        return cls(
            id=view.id,
            status=view.status,
            reason=view.reason or None,
            port=port,
            pid=pid,
            vram_mb=memory // MIB or None,
            slots=view.slots,
            busy=view.busy,
            loading_since=clock.at(view.loading_since),
            loaded_at=clock.at(view.ready_since),
            last_used=clock.at(view.last_used),
        )


class ModelStatus(Schema):
    """One model. A model that was never used is just `{"status": "off"}`.

    Of several replicas the figures are taken together; port, pid and moments are those of the one that is furthest.
    """

    status: Status = Field(description="ready if any replica is")
    reason: str | None = Field(default=None, description="why it is in this state")
    port: int | None = None
    pid: int | None = None
    vram_mb: Count | None = Field(default=None, description="seen on GPUs; host RAM on a machine without a GPU")
    slots: Count | None = None
    busy: Count | None = Field(default=None, description="slots at work")
    queued: Queued | None = None
    oldest_wait_sec: Seconds | None = None
    loading_since: datetime | None = None
    loaded_at: datetime | None = None
    last_used: datetime | None = None
    retry_at: datetime | None = Field(default=None, description="when a model that failed is tried again")
    restarts: Count | None = None
    cut: str | None = Field(default=None, description="what llama.cpp has left out to make it fit")
    replicas: list[ReplicaStatus] | None = Field(default=None, description="each of its replicas, the oldest first")

    @classmethod
    def of(
        cls,
        view: ModelView,
        clock: WallClock,
        *,
        memory: int,
        port: int | None = None,
        pid: int | None = None,
        replicas: Sequence[ReplicaStatus] = (),
    ) -> Self:
        """Describe `view`; `memory` is what the model is seen to hold, in bytes."""
        lives = view.replica is not None
        waits = view.queue_depth > 0
        return cls(
            status=view.status,
            reason=view.reason or None,
            port=port if lives else None,
            pid=pid if lives else None,
            vram_mb=memory // MIB if lives and memory else None,
            slots=view.slots if lives else None,
            busy=view.busy if lives else None,
            queued=Queued.of(view) if lives or waits else None,
            oldest_wait_sec=round(view.oldest_wait, 3) if waits else None,
            loading_since=clock.at(view.loading_since),
            loaded_at=clock.at(view.ready_since),
            last_used=clock.at(view.last_used),
            retry_at=clock.at(view.retry_at),
            restarts=view.restarts or None,
            cut=view.cut or None,
            replicas=list(replicas) or None,
        )


class ModelUpdate(ModelStatus):
    """A change of one model, as the status stream tells it."""

    alias: str


class ServerStatus(Schema):
    status: Literal["ready", "unavailable"] = Field(description="unavailable while starting up or shutting down")
    reloaded_at: datetime | None = Field(default=None, description="when the configuration was last taken anew")
    reload_refused: str | None = Field(default=None, description="what was wrong with one that was read since")


class FullStatus(Schema):
    """All models."""

    server: ServerStatus
    models: dict[str, ModelStatus]
    summary: dict[Status, Count] = Field(description="models per status; a status that no model has is left out")

    @classmethod
    def of(cls, models: Mapping[str, ModelStatus], *, accepting: bool, reloads: Reloads) -> Self:
        counts = Counter(model.status for model in models.values())
        return cls(
            server=ServerStatus(
                status="ready" if accepting else "unavailable",
                reloaded_at=datetime.fromtimestamp(round(reloads.taken_at, 3), UTC) if reloads.tried else None,
                reload_refused=reloads.refusal or None,
            ),
            models=dict(models),
            summary=dict(counts),
        )


class FailedModels(Schema):
    """The models that failed: those that will be tried again have `retry_at`, the others need a reset."""

    models: dict[str, ModelStatus]


class ReloadReport(Schema):
    """What another configuration has changed."""

    added: list[str] = Field(description="models that are new")
    removed: list[str] = Field(description="models that take no requests any more; what runs on them runs to its end")
    changed: dict[str, list[str]] = Field(description="keys of each model that differs; `files` = a file was replaced")
    restarted: list[str] = Field(description="models that were in memory, and are loaded anew")
    unchanged: Count = Field(description="how many models are as before")
    applied: list[str] = Field(description="other keys that hold from now on")
    restart_required: list[str] = Field(description="keys that hold only after a restart; the old values stay")


class StreamTicket(Schema):
    """For `?ticket=` of the status streams; good once."""

    ticket: str
    expires_in: int = Field(description="seconds")


def request_body(schema: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI entry of a body that is read by `router.api.dependencies.body_of`."""
    content = {"application/json": {"schema": schema.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}
