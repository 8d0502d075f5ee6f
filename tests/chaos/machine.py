"""Anything may happen to the router, in any order; what must hold is looked at after each step."""

from __future__ import annotations

import signal
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.chaos.world import HEALTHY, MODELS, POISON, World
from tests.support.control import FakeChild

models = st.sampled_from(sorted(MODELS))
# What a child does with its answers from now on.
FAULTS = st.sampled_from(
    [
        {"token_delay": 0.1}, {"prefill_delay": 0.5}, {"stall_after_tokens": 0}, {"stall_after_tokens": 2},
        {"bad_sse": True}, {"bad_chunking": True}, {"bad_head": True}, {"close_after_bytes": 500},
        {"reset_after_bytes": 1000}, {"crash_after_bytes": 900}, {"reset_reused": True}, {"hang": True},
        {"hang_health": True},
    ]
)  # fmt: skip
# What the next child of a model does when it loads.
BAD_LOADS = st.sampled_from(
    [{"crash_at_load": True}, {"exit_code": 0}, {"exit_code": 1}, {"never_ready": True}, {"ready_after": 0.7}]
)
SIGNALS = [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP, signal.SIGCONT]
DEEDS = st.sampled_from([("flood", 2), ("long_line", 200), ("leak", 5), ("fork", 1)])


class AnyOrder(RuleBasedStateMachine):
    """`world` is set by whoever runs it, and shared by all runs: each begins and ends with nothing in memory."""

    world: ClassVar[World]

    def teardown(self) -> None:
        self.world.empty()

    @initialize(first=models, second=models)
    def begin(self, first: str, second: str) -> None:
        self.world.ask(first, tokens=30)
        self.world.ask(second, tokens=30)

    # -- clients -----------------------------------------------------------------------------------------------------

    @rule(
        model=models,
        tokens=st.sampled_from([1, 5, 40, 80]),
        stream=st.booleans(),
        priority=st.sampled_from(["high", "normal", "low"]),
    )
    def ask(self, model: str, tokens: int, stream: bool, priority: str) -> None:
        self.world.ask(model, tokens=tokens, stream=stream, x_request_priority=priority)

    @rule(model=models, stream=st.booleans())
    def ask_what_kills(self, model: str, stream: bool) -> None:
        self.world.ask(model, stream=stream, text=POISON)

    @rule(model=models, count=st.integers(5, 25))
    def flood(self, model: str, count: int) -> None:
        for number in range(count):
            self.world.ask(model, stream=bool(number % 2))

    @rule(model=models)
    def send_half(self, model: str) -> None:
        self.world.ask_half(model)

    @rule(number=st.integers(0, 30), reset=st.booleans())
    def disconnect(self, number: int, reset: bool) -> None:
        if asked := self.world.asked:
            asked[number % len(asked)].leave(reset=reset)

    @rule(reset=st.booleans())
    def disconnect_everybody(self, reset: bool) -> None:
        for found in self.world.asked:
            found.leave(reset=reset)

    # -- operators ---------------------------------------------------------------------------------------------------

    @rule(model=models, wait=st.booleans())
    def load(self, model: str, wait: bool) -> None:
        self.world.manage("/v1/models/load", model=model, wait=wait)

    @rule(model=models, force=st.booleans())
    def evict(self, model: str, force: bool) -> None:
        self.world.manage("/v1/models/eject", model=model, force=force)

    @rule(model=models)
    def forgive(self, model: str) -> None:
        self.world.manage(f"/v1/models/{model}/reset")

    @rule(model=models, change=st.sampled_from(["nothing", "flags", "invalid", "gone"]))
    def reload(self, model: str, change: str) -> None:
        self.world.reload(model, change)

    # -- children ----------------------------------------------------------------------------------------------------

    @rule(model=models, number=st.sampled_from(SIGNALS))
    def send_signal(self, model: str, number: int) -> None:
        if (child := self.child(model)) is not None:
            self.world.signal(child, number)

    @rule(model=models, fault=FAULTS)
    def fail(self, model: str, fault: dict[str, object]) -> None:
        if (child := self.child(model)) is not None and child.pid not in self.world.stopped:
            child.tell(**fault)

    @rule(model=models, deed=DEEDS)
    def misbehave(self, model: str, deed: tuple[str, int]) -> None:
        if (child := self.child(model)) is not None and child.pid not in self.world.stopped:
            child.do(*deed)

    @rule(model=models, fault=BAD_LOADS)
    def fail_at_the_next_load(self, model: str, fault: dict[str, object]) -> None:
        self.world.control.plan(model, **{**HEALTHY, **fault})

    @rule(model=models)
    def load_well_again(self, model: str) -> None:
        self.world.control.plan(model, **HEALTHY)

    @rule()
    def kill_the_guard(self) -> None:
        self.world.kill_guard()

    def child(self, model: str) -> FakeChild | None:
        """The one of the model that lives. What is drawn must not depend on it, or a run could not be repeated."""
        return next((child for child in self.world.children() if child.model == model), None)

    @invariant()
    def all_is_in_order(self) -> None:
        self.world.check()
