"""The status bus: order, bounds, and an end."""

import asyncio

from router.telemetry.status import StatusBus, Subscription
from tests.support.views import model_view


async def take(subscription: Subscription, count: int) -> list[str | None]:
    async with asyncio.timeout(5):
        found = [await anext(subscription) for _ in range(count)]
    return [None if item is None else item.name for item in found]


async def test_a_snapshot_is_asked_for_first_then_changes_come_in_order() -> None:
    bus = StatusBus()
    with bus.subscribe() as subscription:
        assert await take(subscription, 1) == [None]
        for name in "abc":
            bus.publish(model_view(name))
        assert await take(subscription, 3) == ["a", "b", "c"]


async def test_a_change_before_the_snapshot_is_covered_by_it() -> None:
    bus = StatusBus()
    with bus.subscribe() as subscription:
        bus.publish(model_view("a"))
        assert await take(subscription, 1) == [None]
        bus.publish(model_view("b"))
        assert await take(subscription, 1) == ["b"]


async def test_a_slow_listener_gets_a_snapshot_in_place_of_what_it_missed() -> None:
    bus = StatusBus(queue_limit=2)
    with bus.subscribe() as slow, bus.subscribe() as quick:
        await take(slow, 1)
        await take(quick, 1)
        for name in "abc":
            bus.publish(model_view(name))
            assert await take(quick, 1) == [name]
        bus.publish(model_view("d"))
        assert await take(slow, 1) == [None]
        bus.publish(model_view("e"))
        assert await take(slow, 1) == ["e"]


async def test_a_waiting_listener_is_woken() -> None:
    bus = StatusBus()
    with bus.subscribe() as subscription:
        await take(subscription, 1)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(take(subscription, 1))
            group.create_task(_publish_later(bus))
        assert waiting.result() == ["late"]


async def _publish_later(bus: StatusBus) -> None:
    bus.publish(model_view("late"))


async def test_listeners_are_gone_after_their_block() -> None:
    bus = StatusBus()
    with bus.subscribe():
        assert bus.subscribers == 1
    assert bus.subscribers == 0
    bus.publish(model_view("nobody listens"))


async def test_close_ends_present_and_future_listeners() -> None:
    bus = StatusBus()
    with bus.subscribe() as present:
        await take(present, 1)
        bus.publish(model_view("unseen"))
        bus.close()
        assert [item async for item in present] == []
    with bus.subscribe() as late:
        assert [item async for item in late] == []
    assert await bus.wait_closed(5)


async def test_waiting_for_the_end_has_a_deadline() -> None:
    assert not await StatusBus().wait_closed(0)
