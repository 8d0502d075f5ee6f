"""Placement: the examples of the rule, and what holds for every need and every machine."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.placement import Shortage, place
from router.core.types import HOST, DeviceId, Need, Pin, Placement

MIB = 1024**2
CAPACITY = {"gpu:0": 24_000 * MIB, "gpu:1": 16_000 * MIB, HOST: 60_000 * MIB}


def _gpu(mib: int, host: int = 512) -> Need:
    return Need(gpu=mib * MIB, host=host * MIB)


def _free(gpu0: int, gpu1: int, host: int = 60_000) -> dict[DeviceId, int]:
    return {"gpu:0": gpu0 * MIB, "gpu:1": gpu1 * MIB, HOST: host * MIB}


def _placed(need: Need, free: dict[DeviceId, int]) -> Placement:
    answer = place(need, free, CAPACITY)
    assert isinstance(answer, Placement), answer
    return answer


def _short(need: Need, free: dict[DeviceId, int]) -> Shortage:
    answer = place(need, free, CAPACITY)
    assert isinstance(answer, Shortage), answer
    return answer


def test_the_tightest_gpu_that_is_enough() -> None:
    assert _placed(_gpu(8_000), _free(20_000, 9_000)).bytes == {"gpu:1": 8_000 * MIB, HOST: 512 * MIB}


def test_equal_gpus_are_filled_in_order() -> None:
    assert _placed(_gpu(8_000), _free(9_000, 9_000)).gpus == ("gpu:0",)


def test_a_cpu_model_takes_the_host_alone() -> None:
    placement = _placed(Need(gpu=0, host=3 * MIB, reserve=2 * MIB), _free(0, 0))
    assert placement == Placement(bytes={HOST: 5 * MIB}, reserve=2 * MIB)


def test_too_big_for_one_gpu_is_split_by_capacity() -> None:
    assert _placed(_gpu(30_000), _free(24_000, 16_000)).bytes == {
        "gpu:0": 18_000 * MIB,
        "gpu:1": 12_000 * MIB,
        HOST: 512 * MIB,
    }


def test_a_model_that_would_fit_one_gpu_waits_for_it_and_is_not_split() -> None:
    shortage = _short(_gpu(20_000), _free(15_000, 16_000))
    assert shortage.missing == {"gpu:0": 5_000 * MIB}
    assert not shortage.never


def test_more_than_all_gpus_spills_to_the_host() -> None:
    placement = _placed(_gpu(50_000), _free(24_000, 16_000))
    assert placement.bytes == {"gpu:0": 24_000 * MIB, "gpu:1": 16_000 * MIB, HOST: 10_512 * MIB}


def test_without_gpus_all_goes_to_the_host() -> None:
    answer = place(_gpu(1_000), {HOST: 2_000 * MIB}, {HOST: 2_000 * MIB})
    assert answer == Placement(bytes={HOST: 1_512 * MIB})


def test_the_shortage_is_on_the_gpu_that_lacks_least() -> None:
    assert _short(_gpu(8_000), _free(2_000, 7_000)).missing == {"gpu:1": 1_000 * MIB}


def test_an_overdrawn_device_lacks_what_it_is_overdrawn_too() -> None:
    assert _short(_gpu(20_000), _free(-500, 0)).missing == {"gpu:0": 20_500 * MIB}


def test_short_on_the_host_only() -> None:
    shortage = _short(_gpu(8_000), _free(24_000, 16_000, host=500))
    assert shortage.missing == {HOST: 12 * MIB}
    assert shortage.message == (
        "needs 8,000 MiB on gpu:1 (16,000 MiB of 16,000 MiB free) and 512 MiB on host (500 MiB of 60,000 MiB free): "
        "12 MiB short on host"
    )


def test_the_message_of_one_that_never_fits_holds_the_arithmetic() -> None:
    shortage = _short(_gpu(150_000), _free(24_000, 16_000))
    assert shortage.never
    assert shortage.message == (
        "needs 24,000 MiB on gpu:0 (at most 24,000 MiB) and 16,000 MiB on gpu:1 (at most 16,000 MiB) and 110,512 MiB "
        "on host (at most 60,000 MiB); it can never fit: choose a smaller model or quantisation, or raise "
        "system.memory_budget_mb"
    )


def test_a_byte_too_much_is_not_rounded_away() -> None:
    shortage = place(Need(gpu=0, host=MIB + 1), {HOST: MIB}, {HOST: 2 * MIB})
    assert isinstance(shortage, Shortage)
    assert shortage.message == "needs 2 MiB on host (1 MiB of 2 MiB free): 1 MiB short on host"


SIZES = st.integers(0, 1000)
NEEDS = st.builds(Need, gpu=SIZES, host=SIZES, reserve=SIZES)


@st.composite
def machines(draw: st.DrawFn) -> tuple[dict[DeviceId, int], dict[DeviceId, int]]:
    """(free, capacity) of a machine with up to four GPUs; free may be negative and above capacity."""
    devices = [f"gpu:{index}" for index in range(draw(st.integers(0, 4)))] + [HOST]
    capacity = {device: draw(st.integers(0, 1000)) for device in devices}
    free = {device: draw(st.integers(-100, 1100)) for device in devices}
    return free, capacity


@given(need=NEEDS, machine=machines())
def test_every_answer_adds_up(need: Need, machine: tuple[dict[DeviceId, int], dict[DeviceId, int]]) -> None:
    free, capacity = machine
    answer = place(need, free, capacity)
    if isinstance(answer, Placement):
        assert sum(answer.bytes.values()) == need.total + need.reserve - answer.withheld
        assert answer.reserve == need.reserve - answer.withheld >= 0
        assert all(0 < size <= min(free[device], capacity[device]) for device, size in answer.bytes.items())
        assert answer.bytes.get(HOST, 0) >= need.host + answer.reserve
        assert not answer.withheld or answer.bytes.get(HOST, 0) == capacity[HOST], "all that there is"
    else:
        assert answer.missing
        assert all(size > 0 for size in answer.missing.values())


@given(need=NEEDS, machine=machines())
def test_never_means_not_even_on_empty_devices(
    need: Need, machine: tuple[dict[DeviceId, int], dict[DeviceId, int]]
) -> None:
    free, capacity = machine
    answer = place(need, free, capacity)
    empty = place(need, capacity, capacity)
    if isinstance(answer, Shortage):
        assert answer.never == isinstance(empty, Shortage)
    else:
        assert isinstance(empty, Placement)


@given(need=NEEDS, machine=machines())
def test_freeing_what_is_missing_is_enough(
    need: Need, machine: tuple[dict[DeviceId, int], dict[DeviceId, int]]
) -> None:
    free, capacity = machine
    answer = place(need, free, capacity)
    if isinstance(answer, Shortage) and not answer.never:
        freed = {device: min(size, capacity[device]) + answer.missing.get(device, 0) for device, size in free.items()}
        assert isinstance(place(need, freed, capacity), Placement)


@given(need=NEEDS, machine=machines())
def test_more_room_never_hurts(need: Need, machine: tuple[dict[DeviceId, int], dict[DeviceId, int]]) -> None:
    free, capacity = machine
    if isinstance(place(need, free, capacity), Placement):
        assert isinstance(place(need, {device: size + 50 for device, size in free.items()}, capacity), Placement)


@pytest.mark.parametrize("size", [0, 1, 39_999, 40_000])
def test_a_split_is_exact(size: int) -> None:
    capacity = {"gpu:0": 13_333, "gpu:1": 13_333, "gpu:2": 13_334, HOST: 0}
    answer = place(Need(gpu=size, host=0), capacity, capacity)
    assert isinstance(answer, Placement)
    assert sum(answer.bytes.values()) == size


def _machine(*sizes: int) -> dict[DeviceId, int]:
    return {**{f"gpu:{index}": size * MIB for index, size in enumerate(sizes)}, HOST: 60_000 * MIB}


def _on(need: Need, capacity: dict[DeviceId, int], **taken: int) -> Placement:
    free = {device: size - taken.get(device.replace(":", ""), 0) * MIB for device, size in capacity.items()}
    answer = place(need, free, capacity)
    assert isinstance(answer, Placement), answer.message
    return answer


def test_as_few_gpus_as_can_hold_it() -> None:
    placement = _on(_gpu(40_000), _machine(*[24_000] * 8))
    assert placement.gpus == ("gpu:0", "gpu:1")
    assert placement.shares == (20_000, 20_000)


def test_each_further_gpu_costs_its_own_context_and_buffers() -> None:
    need = Need(gpu=40_000 * MIB, host=0, each=1_000 * MIB)
    placement = _on(need, _machine(24_000, 24_000))
    assert placement.bytes == {"gpu:0": 20_500 * MIB, "gpu:1": 20_500 * MIB}
    assert placement.shares == (19_500, 19_500)
    assert _on(Need(47_500 * MIB, 0, each=1_000 * MIB), _machine(*[24_000] * 8)).gpus == ("gpu:0", "gpu:1", "gpu:2")


def test_a_split_follows_what_others_left_free() -> None:
    placement = _on(_gpu(30_000), _machine(24_000, 24_000), gpu0=14_000)
    assert placement.bytes["gpu:0"] <= 10_000 * MIB
    assert placement.bytes["gpu:0"] + placement.bytes["gpu:1"] == 30_000 * MIB


def test_more_than_all_gpus_is_left_to_llama_cpp() -> None:
    placement = _on(_gpu(50_000), _machine(24_000, 16_000))
    assert not placement.whole
    assert placement.shares == ()
    assert placement.bytes == {"gpu:0": 24_000 * MIB, "gpu:1": 16_000 * MIB, HOST: 10_512 * MIB}


def test_a_context_that_can_be_shortened_takes_no_ram_instead() -> None:
    placement = _on(Need(30_000 * MIB, 512 * MIB, spare=20_000 * MIB), _machine(24_000))
    assert not placement.whole
    assert placement.bytes == {"gpu:0": 24_000 * MIB, HOST: 512 * MIB}


@pytest.mark.parametrize(
    ("pin", "gpus", "visible"),
    [
        (Pin(gpus=(1,), numbered=True), ["gpu:1"], 4),  # -dev CUDA1
        (Pin(gpus=(3, 1), numbered=True), ["gpu:3", "gpu:1"], 4),  # -dev CUDA3,CUDA1
        (Pin(gpus=(2,), alone=True, numbered=True), ["gpu:2"], 4),  # -sm none -mg 2
        (Pin(gpus=(2,)), ["gpu:2"], 0),  # -mg 2: where it would be put anyway if there is room
        (Pin(alone=True), ["gpu:0"], 0),  # -sm none
        (Pin(shares=(0, 1, 0, 3), numbered=True), ["gpu:1", "gpu:3"], 4),  # -ts 0,1,0,3
    ],
)
def test_flags_that_name_gpus(pin: Pin, gpus: list[str], visible: int) -> None:
    placement = _on(Need(8_000 * MIB, 0, pin=pin), _machine(*[24_000] * 4))
    assert list(placement.gpus) == gpus
    assert len(placement.visible) == visible


def test_shares_that_flags_give_are_booked_and_not_passed_again() -> None:
    placement = _on(Need(8_000 * MIB, 0, pin=Pin(shares=(1, 3), numbered=True)), _machine(24_000, 24_000))
    assert placement.bytes == {"gpu:0": 2_000 * MIB, "gpu:1": 6_000 * MIB}
    assert placement.shares == ()


def test_a_pinned_model_that_is_too_big_for_its_gpu() -> None:
    partly = _on(Need(30_000 * MIB, 0, pin=Pin(gpus=(1,), numbered=True)), _machine(24_000, 24_000))
    assert (partly.whole, partly.gpus) == (False, ("gpu:1",))
    capacity = _machine(24_000, 24_000)
    fixed = place(Need(30_000 * MIB, 0, pin=Pin(shares=(1,), numbered=True)), capacity, capacity)
    assert isinstance(fixed, Shortage)
    assert fixed.never


@given(
    sizes=st.lists(st.integers(0, 30_000), min_size=1, max_size=8),
    gpu=st.integers(0, 200_000),
    each=st.integers(0, 2_000),
    taken=st.lists(st.integers(0, 30_000), min_size=8, max_size=8),
)
def test_nothing_is_booked_that_is_not_free(sizes: list[int], gpu: int, each: int, taken: list[int]) -> None:
    capacity = _machine(*sizes)
    losses = dict(zip(capacity, taken[: len(sizes)], strict=False))
    free = {device: size - losses.get(device, 0) * MIB for device, size in capacity.items()}
    need = Need(gpu * MIB, 100 * MIB, each=each * MIB)
    answer = place(need, free, capacity)
    if isinstance(answer, Shortage):
        return
    assert all(size <= free[device] for device, size in answer.bytes.items())
    on_gpus = sum(answer.bytes[device] for device in answer.gpus)
    if answer.whole and answer.gpus:
        assert on_gpus == need.gpu + (len(answer.gpus) - 1) * need.each or need.gpu < need.each
        assert len(answer.shares) in (0, len(answer.gpus))


def test_room_for_growth_never_keeps_a_model_out() -> None:
    small, ram = Need(0, 20 * MIB, reserve=512 * MIB), {HOST: 300 * MIB}
    placement = _on(small, ram)
    assert (placement.bytes, placement.reserve, placement.withheld) == (ram, 280 * MIB, 232 * MIB)
    assert placement.whole
    assert isinstance(place(small, {HOST: 299 * MIB}, ram), Shortage), "it waits until that is free"
    grown = _on(replace(small, host=520 * MIB, base=20 * MIB), ram)
    assert (grown.bytes, grown.reserve, grown.withheld) == (ram, 0, 232 * MIB), "also what it was seen to grow by"
    never = place(replace(small, host=301 * MIB), ram, ram)
    assert isinstance(never, Shortage)
    assert never.message.startswith("needs 301 MiB on host (at most 300 MiB)")


@pytest.mark.parametrize(
    ("ram", "shortened", "reserve"),
    [(1000, 0, 512), (800, 0, 400), (480, 0, 80), (400, 50, 50), (200, 225, 25), (160, 250, 10), (150, 250, 0)],
)
def test_growth_gives_way_down_to_a_part_of_ram_and_then_the_context_does(
    ram: int, shortened: int, reserve: int
) -> None:
    need = Need(0, 400 * MIB, reserve=512 * MIB, spare=250 * MIB)
    placement = _on(need, {HOST: ram * MIB})
    assert (placement.squeeze * 250, placement.reserve // MIB) == (shortened, reserve)
    assert placement.whole == (not shortened)
    assert isinstance(place(need, {HOST: 149 * MIB}, {HOST: 149 * MIB}), Shortage)


def test_what_is_growth_already_is_not_booked_twice() -> None:
    need = Need(0, 700 * MIB, reserve=512 * MIB, base=500 * MIB)
    assert (need.grown, need.growth) == (200 * MIB, 312 * MIB)
    assert _on(need, {HOST: 2000 * MIB}).bytes == {HOST: 1012 * MIB}
    assert replace(need, base=0).growth == 512 * MIB, "nobody knows"
    assert replace(need, base=800 * MIB).growth == 512 * MIB
    assert replace(need, host=1500 * MIB).growth == 0, "what was seen is booked"


def test_a_context_that_ram_could_never_hold_is_shortened() -> None:
    need = Need(0, 80_000 * MIB, reserve=500 * MIB, spare=41_000 * MIB)
    placement = _on(need, _machine())
    assert placement.bytes == {HOST: 60_000 * MIB}
    assert (placement.whole, placement.squeeze) == (False, 0.5)
    never = place(Need(0, 110_000 * MIB, spare=41_000 * MIB), _machine(), _machine())
    assert isinstance(never, Shortage)
    assert never.never
    assert _on(Need(0, 50_000 * MIB, spare=41_000 * MIB), _machine()).squeeze == 0
