"""From the configuration to what the scheduler and the engine go by."""

from __future__ import annotations

from router.config import Settings
from router.core.types import Policy, Priority
from router.engine.limits import Limits
from router.engine.ports import KEEP_TIMEOUT_SEC
from router.inventory import MIB


def budget_of(settings: Settings) -> int | None:
    """Bytes of RAM that models may take; None = what the machine has."""
    megabytes = settings.system.memory_budget_mb
    return None if megabytes is None else megabytes * MIB


def policy_of(settings: Settings) -> Policy:
    """What the scheduler decides by."""
    system = settings.system
    offsets = system.priority_offsets_sec
    return Policy(
        max_models=system.max_concurrent_models,
        max_queue=system.max_queue_size_per_model,
        priority_offsets={
            Priority.HIGH: offsets.high,
            Priority.NORMAL: offsets.normal,
            Priority.LOW: offsets.low,
        },
        min_residency=system.min_residency_sec,
        restart_grace=system.restart_grace_sec,
    )


def limits_of(settings: Settings) -> Limits:
    """The engine's deadlines."""
    system = settings.system
    return Limits(
        queue_timeout=system.queue_timeout_sec,
        request_timeout=system.request_timeout_sec,
        generation_timeout=system.generation_timeout_sec,
        load_timeout=system.load_timeout_sec,
        health_interval=system.health_interval_sec,
        health_failures=system.health_failures,
        keep_timeout=KEEP_TIMEOUT_SEC if system.keep_conversations else 0.0,
    )
