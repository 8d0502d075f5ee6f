"""What follows from a replica that failed to load or died: who is turned away, and when it is tried again."""

from __future__ import annotations

from router.core.appetite import Appetite
from router.core.commands import RejectCode
from router.core.grants import Grants
from router.core.lifecycle import Health, ReplicaState
from router.core.records import Model, Replica, State, Want
from router.core.types import Exhaustion


class Setbacks:
    """Draws the consequences for the model. Part of the scheduler, and called by it alone."""

    def __init__(self, state: State, grants: Grants, appetite: Appetite) -> None:
        self._state = state
        self._grants = grants
        self._appetite = appetite

    def exited(
        self,
        replica: Replica,
        before: ReplicaState,
        reason: str,
        now: float,
        *,
        timed_out: bool,
        exhausted: Exhaustion | None,
    ) -> None:
        """A child is gone that was in the state `before`; nothing follows if it had been asked to go.

        Beside another replica of its model that is nobody's loss: it is only not tried again for a while.
        """
        model = self._state.models[replica.model]
        if replica.ready is not None:
            for record in (model.failures, model.setbacks):
                record.served(now - replica.ready)
        if before is ReplicaState.STARTING:
            if model.staying:
                self._failed_beside_others(model, now)
            elif exhausted is None or not self._appetite.raise_after(replica, exhausted, reason, now):
                self._load_failed(model, reason, now, timed_out=timed_out)
        elif before is ReplicaState.READY:
            self._crashed(model, replica, reason, now)

    def _failed_beside_others(self, model: Model, now: float) -> None:
        retry_at = model.setbacks.note(now)
        model.grows_at = now + self._state.policy.healthy_time if retry_at is None else retry_at

    def _load_failed(self, model: Model, reason: str, now: float, *, timed_out: bool) -> None:
        if model.want is not Want.RESTART:
            model.want = Want.NO  # whoever wanted it has been told
        model.lower()
        model.note_failure(f"failed to load: {reason}", now)
        code, retry_after = RejectCode.LOAD_FAILED, None
        if timed_out and model.retry_at is not None:
            code, retry_after = RejectCode.BACKING_OFF, model.retry_at - now
        self._grants.turn_away(model, code, f"Model '{model.spec.name}' {model.reason}", retry_after)

    def _crashed(self, model: Model, replica: Replica, reason: str, now: float) -> None:
        model.restarts += 1
        is_early = replica.ready is None or now - replica.ready < self._state.policy.restart_grace
        if model.staying:
            if is_early:
                self._failed_beside_others(model, now)
            return
        model.want = max(model.want, Want.RESTART)
        if not is_early:
            model.reason = f"restarts after a crash: {reason}"
            return
        model.note_failure(f"crashed: {reason}", now)
        if model.health is Health.FAILED:
            self._grants.turn_away(model, RejectCode.FAILED, f"Model '{model.spec.name}' {model.reason}")
