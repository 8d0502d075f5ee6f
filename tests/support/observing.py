"""Looking at a running router from outside: its metrics, its processes, its queue."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.support.router import RunningRouter
from tests.support.waiting import wait_until

T = TypeVar("T")


def metric(router: RunningRouter, name: str, **labels: str) -> float:
    """The sum of all series of this name that have these labels."""
    page = router.client.get("/metrics")
    assert page.status_code == 200
    found = [
        sample.value
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert found, f"no series {name}{labels}"
    return float(sum(found))


def relayed(router: RunningRouter) -> float:
    """How many requests have been handed to the models' queues."""
    return metric(router, "router_requests_total")


def loads(router: RunningRouter, model: str, result: str = "success") -> int:
    return int(metric(router, "router_loads_total", model=model, result=result))


def is_alive(pid: int) -> bool:
    """Zombies are not: where nobody adopts orphans, nobody reaps them either."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def descendants(router: RunningRouter) -> list[int]:
    """Every process that the router has started, directly or not."""
    return [process.pid for process in psutil.Process(router.process.pid).children(recursive=True)]


def wait_for_llama(router: RunningRouter) -> None:
    """Wait until llama.cpp has said what it can; before that a load waits for it."""
    wait_until(lambda: router.client.get("/health").json()["llama_server"] != "looking for it", what="llama.cpp")


def kill_child(router: RunningRouter, model: str) -> int:
    """End a model's process with SIGKILL, and wait until it is gone; returns its pid."""
    pid = int(router.status(model)["pid"])
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), what="the child's death")
    return pid


def wait_for_status(router: RunningRouter, model: str, status: str, deadline: float = 15.0) -> dict[str, Any]:
    """Wait until a model is in this state; returns its status."""
    wait_until(lambda: router.status(model)["status"] == status, deadline, f"{model} {status}")
    return router.status(model)


def queued(router: RunningRouter, model: str) -> int:
    """How many requests wait for a slot of the model."""
    waiting: dict[str, int] = router.status(model).get("queued", {})
    return sum(waiting.values())


def wait_for_queue(router: RunningRouter, model: str, depth: int) -> None:
    wait_until(lambda: queued(router, model) == depth, what=f"{depth} waiting for {model}")


@contextmanager
def stream(router: RunningRouter, model: str, **fields: Any) -> Iterator[httpx.Response]:
    """A chat stream whose first byte has arrived; leaving the block hangs up."""
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Hi"}], **fields}
    with router.client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        yield response


def read_to_the_end(response: httpx.Response) -> tuple[bytes, bool]:
    """The rest of a stream, and whether it ended as HTTP says; False when the connection was aborted."""
    wire = bytearray()
    try:
        for piece in response.iter_raw():
            wire += piece
    except httpx.RemoteProtocolError:
        return bytes(wire), False
    return bytes(wire), True


@contextmanager
def in_background(workers: int = 1) -> Iterator[ThreadPoolExecutor]:
    """For requests that wait while the test looks on."""
    with ThreadPoolExecutor(workers) as pool:
        yield pool


def at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Carry out all calls from threads that start together; their results in the same order."""
    barrier = threading.Barrier(len(calls))

    def started(call: Callable[[], T]) -> T:
        barrier.wait(timeout=20)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        futures: Iterable[Future[T]] = [pool.submit(started, call) for call in calls]
        return [future.result(timeout=60) for future in futures]
