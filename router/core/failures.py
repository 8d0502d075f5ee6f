"""When a model that keeps failing is tried again, and when it is given up."""

from __future__ import annotations

from router.core.types import Policy


class FailureRecord:
    """The failures of one model: exponential back-off, and an end after too many without health in between.

    The shape is that of OTP's restart intensity and of Kubernetes' crash-loop back-off. What counts is time in which
    the model served: a load that takes ten minutes to fail is no sign of health, and neither is a night without use.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._count = 0
        self._healthy = 0.0

    def note(self, now: float) -> float | None:
        """Count a failure; returns when to try again, None when the model is to be given up."""
        self._healthy = 0.0
        self._count += 1
        if self._count >= self._policy.failure_limit:
            return None
        pause = self._policy.backoff_base * 2.0 ** (self._count - 1)
        return now + min(pause, self._policy.backoff_cap)

    def adopt(self, policy: Policy) -> None:
        """Judge by this policy from now on."""
        self._policy = policy

    def served(self, seconds: float) -> None:
        """A replica has been READY for so long, however it ended: told before its own failure, if it was one."""
        self._healthy += seconds
        if self._healthy >= self._policy.healthy_time:
            self.clear()

    def clear(self) -> None:
        """Forget all of them."""
        self._count, self._healthy = 0, 0.0

    def __len__(self) -> int:
        return self._count
