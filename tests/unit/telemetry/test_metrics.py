"""The Prometheus page: its names, its labels, and what makes the figures move."""

from prometheus_client.parser import text_string_to_metric_families

from router.core.types import HOST, DeviceId, DeviceView, ModelView, Need, Priority, Status
from router.telemetry.gauges import SharedSampler
from router.telemetry.metrics import Telemetry
from router.telemetry.records import RequestRecord
from router.telemetry.status import StatusBus
from tests.support.views import MIB, device_view, model_view

NAMES = ("qwen", "org/ünï:q4")

EXPECTED = {
    "router_requests": "counter",
    "router_tokens_in": "counter",
    "router_tokens_out": "counter",
    "router_tokens_cached": "counter",
    "router_prompt_seconds": "counter",
    "router_generation_seconds": "counter",
    "router_config_reloads": "counter",
    "router_config_last_success_timestamp_seconds": "gauge",
    "router_config_last_reload_successful": "gauge",
    "router_scheduler_troubles": "gauge",
    "router_loads": "counter",
    "router_evictions": "counter",
    "router_restarts": "counter",
    "router_recycles": "counter",
    "router_event_loop_stall_seconds": "histogram",
    "router_replays": "counter",
    "router_queue_wait_seconds": "histogram",
    "router_time_to_first_byte_seconds": "histogram",
    "router_request_duration_seconds": "histogram",
    "router_load_seconds": "histogram",
    "router_load_phase_seconds": "histogram",
    "router_conversations": "counter",
    "router_key_requests": "counter",
    "router_model_vram_bytes": "gauge",
    "router_queue_depth": "gauge",
    "router_queue_oldest_wait_seconds": "gauge",
    "router_queue_expected_wait_seconds": "gauge",
    "router_model_state": "gauge",
    "router_model_replicas": "gauge",
    "router_slots": "gauge",
    "router_slots_busy": "gauge",
    "router_model_memory_estimate_bytes": "gauge",
    "router_model_memory_observed_bytes": "gauge",
    "router_device_memory_total_bytes": "gauge",
    "router_device_memory_used_bytes": "gauge",
    "router_device_memory_free_bytes": "gauge",
    "router_device_memory_booked_bytes": "gauge",
    "router_build_info": "gauge",
    "router_connections_open": "gauge",
    "router_requests_open": "gauge",
    "router_refusals": "counter",
}


class Rig:
    """An engine's views, as the test sets them."""

    def __init__(self) -> None:
        self.now = 100.0
        self.reads = 0
        self.models = [model_view(name) for name in NAMES]
        self.memory = [device_view(HOST)]
        self.trouble: tuple[str, ...] = ()

    def clock(self) -> float:
        return self.now

    def views(self) -> tuple[ModelView, ...]:
        self.reads += 1
        return tuple(self.models)

    def troubles(self) -> tuple[str, ...]:
        return self.trouble

    def devices(self) -> tuple[DeviceView, ...]:
        return tuple(self.memory)


def busy_view(name: str, seen: dict[DeviceId, int]) -> ModelView:
    """One that is ready, with three of its slots and three waiters."""
    queued = {Priority.HIGH: 1, Priority.NORMAL: 2, Priority.LOW: 0}
    return model_view(name, status=Status.READY, replica=1, slots=4, busy=3, queued=queued, oldest_wait=1.5, seen=seen,
                      estimate=Need(gpu=700, host=300))  # fmt: skip


def telemetry(rig: Rig | None = None) -> Telemetry:
    found = Telemetry(NAMES, version="1.2.3", status=StatusBus(), clock=lambda: 0.0)
    if rig is not None:
        found.attach(rig)
    return found


def page(of: Telemetry) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Every sample of the page: name -> sorted labels -> value."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(of.render().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def value(of: Telemetry, name: str, **labels: str) -> float:
    return page(of)[name][tuple(sorted(labels.items()))]


def finished(model: str = "qwen", *, first_byte: float | None = 0.2) -> RequestRecord:
    return RequestRecord(model, "/v1/chat/completions", "success", 0.0, first_byte, 2.0, 7, 11, "normal", 5, 0.25, 1.5)


def test_the_names_and_types_are_these_and_no_others() -> None:
    families = list(text_string_to_metric_families(telemetry(Rig()).render().decode()))
    ours = {family.name: family.type for family in families if not family.name.startswith("process_")}
    assert ours == EXPECTED
    assert all(family.documentation for family in families)


def test_every_series_is_there_at_zero_from_the_start() -> None:
    samples = page(telemetry(Rig()))
    assert len(samples["router_requests_total"]) == 4 * len(NAMES)
    assert len(samples["router_loads_total"]) == 2 * len(NAMES)
    assert len(samples["router_queue_wait_seconds_count"]) == 3 * len(NAMES)
    assert len(samples["router_model_state"]) == len(Status) * len(NAMES)
    for name, kind in EXPECTED.items():
        if kind == "counter":
            assert set(samples[f"{name}_total"].values()) == {0.0}, name


def test_before_an_engine_is_attached_there_are_no_gauges_of_it() -> None:
    samples = page(telemetry())
    assert "router_queue_depth" not in samples
    assert "router_requests_total" in samples


def test_a_finished_request_is_counted_once_everywhere() -> None:
    of = telemetry()
    of.request_finished(finished())
    assert value(of, "router_requests_total", model="qwen", status="success") == 1
    assert value(of, "router_requests_total", model="qwen", status="cancelled") == 0
    assert value(of, "router_requests_total", model="org/ünï:q4", status="success") == 0
    assert value(of, "router_tokens_in_total", model="qwen") == 7
    assert value(of, "router_tokens_out_total", model="qwen") == 11
    assert value(of, "router_tokens_cached_total", model="qwen") == 5
    assert value(of, "router_prompt_seconds_total", model="qwen") == 0.25
    assert value(of, "router_generation_seconds_total", model="qwen") == 1.5
    assert value(of, "router_request_duration_seconds_sum", model="qwen") == 2.0
    assert value(of, "router_time_to_first_byte_seconds_sum", model="qwen") == 0.2
    assert len(of.recent.window(60, 3.0)["qwen"].records) == 1


def test_a_request_without_an_answer_has_no_first_byte() -> None:
    of = telemetry()
    of.request_finished(finished(first_byte=None))
    assert value(of, "router_time_to_first_byte_seconds_count", model="qwen") == 0
    assert value(of, "router_request_duration_seconds_count", model="qwen") == 1


def test_what_the_engine_tells_is_counted() -> None:
    of = telemetry()
    of.granted("qwen", Priority.HIGH, 0.3)
    of.load_finished("qwen", 4.0, ok=True)
    of.load_finished("qwen", 9.0, ok=False)
    of.load_phases("qwen", {"spawn": 0.5, "read": 3.0, "ready": 0.25})
    of.conversations("qwen", "saved", 2)
    of.evicted("qwen", "org/ünï:q4")
    of.recycled("qwen", 5)
    of.restarted("org/ünï:q4")
    of.request_replayed("qwen")
    assert value(of, "router_queue_wait_seconds_sum", model="qwen", priority="high") == 0.3
    assert value(of, "router_queue_wait_seconds_count", model="qwen", priority="low") == 0
    assert value(of, "router_load_phase_seconds_sum", model="qwen", phase="read") == 3.0
    assert value(of, "router_load_phase_seconds_count", model="org/ünï:q4", phase="ready") == 0
    assert value(of, "router_conversations_total", model="qwen", event="saved") == 2
    assert value(of, "router_conversations_total", model="qwen", event="restored") == 0
    assert value(of, "router_loads_total", model="qwen", result="success") == 1
    assert value(of, "router_loads_total", model="qwen", result="failure") == 1
    assert value(of, "router_load_seconds_sum", model="qwen") == 4.0
    assert value(of, "router_evictions_total", model="qwen") == 1
    assert value(of, "router_restarts_total", model="org/ünï:q4") == 1
    assert value(of, "router_replays_total", model="qwen") == 1
    assert value(of, "router_recycles_total", model="qwen") == 1


def test_gauges_are_read_from_the_engine_at_each_scrape() -> None:
    rig = Rig()
    of = telemetry(rig)
    assert value(of, "router_slots", model="qwen") == 0
    rig.models[0] = busy_view("qwen", seen={HOST: 50})
    assert value(of, "router_slots", model="qwen") == 4
    assert value(of, "router_slots_busy", model="qwen") == 3
    assert value(of, "router_queue_depth", model="qwen") == 3
    assert value(of, "router_queue_oldest_wait_seconds", model="qwen") == 1.5
    assert value(of, "router_model_state", model="qwen", state="ready") == 1
    assert value(of, "router_model_state", model="qwen", state="off") == 0
    assert value(of, "router_model_memory_estimate_bytes", model="qwen") == 1000
    assert value(of, "router_model_memory_observed_bytes", model="qwen") == 50
    assert value(of, "router_device_memory_used_bytes", device=HOST) == 400 * MIB
    assert value(of, "router_device_memory_booked_bytes", device=HOST) == 300 * MIB


def test_vram_is_host_memory_only_where_there_is_no_gpu() -> None:
    rig = Rig()
    of = telemetry(rig)
    rig.models[0] = busy_view("qwen", seen={HOST: 50, "gpu:0": 20, "gpu:1": 1})
    assert value(of, "router_model_vram_bytes", model="qwen") == 50
    rig.memory.append(device_view("gpu:0"))
    assert value(of, "router_model_vram_bytes", model="qwen") == 21


async def test_a_change_reaches_the_status_bus() -> None:
    bus = StatusBus()
    of = Telemetry(NAMES, version="1", status=bus)
    with bus.subscribe() as changes:
        assert await anext(changes) is None
        of.model_changed(model_view("qwen"), Status.LOADING)
        told = await anext(changes)
    assert told is not None
    assert told.name == "qwen"


def test_uptime_follows_the_clock() -> None:
    now = [5.0]
    of = Telemetry((), version="1", status=StatusBus(), clock=lambda: now[0])
    now[0] = 12.0
    assert of.uptime() == 7.0


def test_one_sample_per_tick_is_shared() -> None:
    rig, sampler = Rig(), SharedSampler(interval=1.0)
    first = sampler.at(rig)
    rig.now += 0.9
    assert sampler.at(rig) is first
    rig.now += 0.1
    assert sampler.at(rig) is not first
    assert rig.reads == 2


def test_the_next_tick_is_always_ahead() -> None:
    sampler = SharedSampler(interval=1.0)
    for now in (100.0, 100.4, 100.999):
        assert int(now + sampler.until_next(now)) == 101


def test_what_stands_still_is_counted() -> None:
    rig = Rig()
    found = telemetry(rig)
    assert page(found)["router_scheduler_troubles"] == {(): 0}
    rig.trouble = ("model 'qwen' has been stopping for 99 s", "1 slot(s) of model 'qwen' are taken")
    assert page(found)["router_scheduler_troubles"] == {(): 2}


def test_a_reload_that_was_refused_shows_until_one_is_taken() -> None:
    found = telemetry()
    shown: list[float] = []
    for step in (found.reloads.succeeded, lambda: found.reloads.refused("no"), found.reloads.succeeded):
        shown += page(found)["router_config_last_reload_successful"].values()
        step()
    shown += page(found)["router_config_last_reload_successful"].values()
    assert shown == [1, 1, 0, 1]
