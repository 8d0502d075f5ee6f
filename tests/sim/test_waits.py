"""Random models under random load, minutes of it: what must hold for every request.

At least 200,000 requests a run, half of them at 80 % to 130 % of what the slots that fit into memory could do at best;
swaps come on top, so that most of these worlds are overloaded.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from benchmarks.simulation import World
from benchmarks.traces import Ask
from router.core.commands import Command, Evicted, Grant
from router.core.lifecycle import LEAVING, ReplicaState
from router.core.types import HOST, Device, DeviceKind, ModelSpec, Need, Policy, Priority
from tests.support.drive import GIB

REQUESTS = 2_500
EXAMPLES = 40
CALM, BUSY = (0.05, 0.8), (0.8, 1.3)
_CLASSES = (Priority.HIGH, Priority.NORMAL, Priority.NORMAL, Priority.NORMAL, Priority.LOW)
_TOKENS = (1, 4, 8, 16, 40, 120)
_WIDTHS = (1,) * 17 + (2, 3, 8)
_REPLICAS = ((0, 1), (0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (2, 2), (2, 3))
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Setting:
    """A world: models by size in GiB, slots, and load time; memory for some of them; how the work comes."""

    sizes: tuple[int, ...]
    slots: tuple[int, ...]
    loads: tuple[float, ...]
    memory: int
    stop: float
    load: float
    leaving: float
    residency: float | None
    seed: int
    replicas: tuple[tuple[int, int], ...]  # of each model, at least and at most
    rivals: tuple[int, int] | None = None  # two models that exclude each other

    @property
    def load_of(self) -> dict[str, float]:
        """Seconds of each model's load."""
        return {f"m{number}": seconds for number, seconds in enumerate(self.loads)}

    @property
    def replicas_of(self) -> dict[str, tuple[int, int]]:
        """How many each model may have, at least and at most."""
        return {f"m{number}": bounds for number, bounds in enumerate(self.replicas)}

    def excluded_by(self, number: int) -> frozenset[str]:
        return frozenset({f"m{self.rivals[1]}"}) if self.rivals and self.rivals[0] == number else frozenset()

    @property
    def rate(self) -> float:
        """Arrivals a second that would keep the slots busy to the share `load`, were the models never to swap.

        As many replicas as fit are counted, and none twice that a model may not have.
        """
        resident = self.memory / (sum(self.sizes) / len(self.sizes))
        slots = sum(self.slots) / len(self.slots) * min(resident, sum(most for _, most in self.replicas))
        work = sum(Ask("", "", tokens).seconds for tokens in _TOKENS) / len(_TOKENS)
        return self.load * slots / work


def worlds(load: tuple[float, float]) -> st.SearchStrategy[Setting]:
    @st.composite
    def build(draw: st.DrawFn) -> Setting:
        count = draw(st.integers(2, 6))
        sizes = tuple(draw(st.lists(st.integers(1, 8), min_size=count, max_size=count)))
        return Setting(
            sizes=sizes,
            slots=tuple(draw(st.lists(st.integers(1, 4), min_size=count, max_size=count))),
            loads=tuple(draw(st.lists(st.floats(0.1, 8), min_size=count, max_size=count))),
            memory=draw(st.integers(max(sizes), max(*sizes, sum(sizes) - 1)) | st.integers(sum(sizes), 2 * sum(sizes))),
            stop=draw(st.floats(0, 1)),
            load=draw(st.floats(*load)),
            leaving=draw(st.sampled_from((0.0, 0.0, 0.1))),
            residency=draw(st.sampled_from((None, None, 0.0, 5.0))),
            seed=draw(st.integers(0, 2**32)),
            replicas=tuple(draw(st.lists(st.sampled_from(_REPLICAS), min_size=count, max_size=count))),
            rivals=draw(st.sampled_from((None, (0, 1)))),
        )

    return build()


@dataclass
class Witness:
    """Looks at every command of a world and at every end of a request."""

    setting: Setting
    policy: Policy
    world: World = field(init=False)
    ended: int = 0
    left: int = 0
    # By model: what was granted (when, its key, seconds of work), and when it yielded with work.
    served: defaultdict[str, list[tuple[float, float, float]]] = field(default_factory=lambda: defaultdict(list))
    yielded: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    newest: dict[tuple[str, Priority], int] = field(default_factory=dict)
    present: dict[str, float] = field(default_factory=dict)  # when each model was last seen in memory

    def see(self, command: Command) -> None:
        match command:
            case Grant():
                self._granted(command)
            case Evicted():
                self._evicted(command)
            case _:
                pass

    def look(self) -> None:
        """After every step: what is true of the whole."""
        present = {replica.model for replica in self.world.scheduler.replicas.values()}
        assert self.setting.rivals is None or not {f"m{number}" for number in self.setting.rivals} <= present
        for device in self.world.scheduler.devices():
            assert device.booked <= device.device.capacity
        counts = Counter(replica.model for replica in self.world.scheduler.replicas.values())
        self.present.update(dict.fromkeys(counts, self.world.now))
        for name, (_, most) in self.setting.replicas_of.items():
            assert counts[name] <= most
        for replica in self.world.scheduler.replicas.values():
            assert sum(run.width for run in replica.leases.values()) == replica.busy <= replica.slots
            assert replica.state is not ReplicaState.STOPPING or not replica.leases

    def _granted(self, grant: Grant) -> None:
        waiting = self.world.waiting[grant.ticket]
        ticket = waiting.ticket
        line = (ticket.model, ticket.priority)
        assert self.newest.get(line, 0) < ticket.id, "order within a class"
        self.newest[line] = ticket.id
        key = ticket.arrived + self.policy.priority_offsets[ticket.priority]
        now = self.world.now
        late = now - key
        if late > 0:
            assert late <= self._bound(ticket.model, key) + _ROUNDING, "a wait beyond its bound"
        self.served[ticket.model].append((now, key, waiting.ask.seconds))

    def _bound(self, model: str, key: float) -> float:
        """How long after its virtual deadline a request may still have to wait.

        Until its model is loaded: the longest lease of a victim, and a stop, a load and a turn for each other
        model that has been in memory since, as those with older claims are. Then the work before it in its own line;
        and if its model must yield in the midst of that, the same once more.
        """
        setting, longest = self.setting, Ask("", "", _TOKENS[-1]).seconds
        turn = longest
        for name, load in setting.load_of.items():
            if name != model and self.present.get(name, -1.0) < key:
                continue
            turn += setting.stop + load
            if name != model:  # its turn, and what runs then
                turn += self._turn(name) + longest
                turn += load / 2 + setting.stop if setting.leaving else 0.0  # a load that was given up, once
        turns = 1 + sum(at >= key for at in self.yielded[model])
        served = self.served[model]
        since = bisect_left(served, (key, 0.0, 0.0))
        line = sum(seconds for _, its, seconds in served[since:] if its <= key)
        return turns * turn + line

    def _turn(self, model: str) -> float:
        """The residency; and up to a load more for a short line, unless it was set by hand."""
        return self._residency(model) + (self.setting.load_of[model] if self.policy.min_residency is None else 0.0)

    def _residency(self, model: str) -> float:
        fixed = self.policy.min_residency
        return min(30.0, max(1.0, 2 * self.setting.load_of[model])) if fixed is None else fixed

    def _evicted(self, evicted: Evicted) -> None:
        view = self.world.scheduler.view(evicted.model, self.world.now)
        replica = self.world.scheduler.replicas[evicted.replica]
        others = [
            one for one in self.world.scheduler.replicas.values() if one.model == evicted.model and one.is_staying
        ]
        if (view.queue_depth or replica.leases) and replica.ready is not None:
            if not others:
                self.yielded[evicted.model].append(self.world.now)
            resident = self.world.now - replica.ready
            assert resident >= self._residency(evicted.model) - _ROUNDING, "more than one swap per residency"


def play(setting: Setting) -> Witness:
    """Let the requests of a world come, and see to it that every one of them ends."""
    policy = Policy(max_models=99, max_queue=REQUESTS, min_residency=setting.residency)
    witness = Witness(setting, policy)
    models = [
        ModelSpec(
            f"m{number}",
            slots,
            Need(0, size * GIB),
            exclusive_with=setting.excluded_by(number),
            min_replicas=setting.replicas[number][0],
            max_replicas=setting.replicas[number][1],
        )
        for number, (size, slots) in enumerate(zip(setting.sizes, setting.slots, strict=True))
    ]
    device = Device(HOST, DeviceKind.HOST, None, "RAM", setting.memory * GIB, setting.memory * GIB)
    world = World(
        models,
        policy=policy,
        devices=[device],
        load=setting.load_of.__getitem__,
        stop=setting.stop,
        witness=witness.see,
    )
    witness.world = world
    draw = random.Random(setting.seed)

    def done(_: bool) -> None:
        witness.ended += 1

    def arrive() -> None:
        ask = Ask(draw.choice(models).name, "", draw.choice(_TOKENS), draw.choice(_CLASSES), draw.choice(_WIDTHS))
        ticket = world.ask(ask, done, patience=1e9)
        if draw.random() < setting.leaving:
            world.at(world.now + draw.expovariate(1), lambda: leave(ticket))

    def leave(ticket: int) -> None:
        witness.left += world.leave(ticket)

    at = 0.0
    for _ in range(REQUESTS):
        at += draw.expovariate(setting.rate)
        world.at(at, arrive)
    while world.step():
        witness.look()
    return witness


@pytest.mark.parametrize("load", [CALM, BUSY], ids=["calm", "busy"])
def test_what_must_hold_for_every_request(load: tuple[float, float]) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, phases=(Phase.reuse, Phase.generate))  # shrinking takes hours
    @given(worlds(load))
    def check(setting: Setting) -> None:
        witness = play(setting)
        assert witness.ended + witness.left == REQUESTS
        assert all(replica.state not in LEAVING for replica in witness.world.scheduler.replicas.values())

    check()
