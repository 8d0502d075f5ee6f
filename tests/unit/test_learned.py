"""What was seen of a model's memory, from one start to the next."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from router.config import ModelConfig
from router.core.ledger import Ledger
from router.core.records import Model, State
from router.core.types import HOST, Device, DeviceKind, ModelSpec, ModelView, Need, Pin, Policy
from router.core.view import model_view
from router.inventory import Entry
from router.learned import FILE, LearnedMemory

RAM = Device(HOST, DeviceKind.HOST, None, "RAM", 1 << 30, 1 << 30)
GPU = Device("gpu:0", DeviceKind.GPU, 0, "H200", 1 << 40, 1 << 40)


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF")
    config = ModelConfig(model_path=file, flags=("-c", "4096"))
    return Entry("m", config, (file,), file_bytes=4, slots=1, cache_ram_mb=16, need=Need(0, 100, 50))


def spec_of(entry: Entry) -> ModelSpec:
    return ModelSpec(entry.name, entry.slots, entry.need)


def seen(entry: Entry, gpu: int, host: int) -> ModelView:
    model = Model.of(spec_of(entry), Policy())
    state = State(Policy(), Ledger([RAM]), {entry.name: model})
    return replace(model_view(state, model, 0.0), estimate=Need(gpu, host, 50, "observed"))


def need(entry: Entry, folder: Path, *devices: Device) -> Need:
    return LearnedMemory(folder, [entry], devices or (RAM,)).apply(spec_of(entry)).need


def test_the_next_start_knows(entry: Entry, tmp_path: Path) -> None:
    learned = LearnedMemory(tmp_path, [entry], [RAM])
    assert learned.note(seen(entry, 0, 700))
    assert not learned.note(seen(entry, 0, 700)), "no news"
    learned.save()
    assert need(entry, tmp_path) == Need(0, 700, 50, "learned")


def test_what_of_it_is_growth_is_known_at_the_next_start(entry: Entry, tmp_path: Path) -> None:
    learned = LearnedMemory(tmp_path, [entry], [RAM])
    learned.note(replace(seen(entry, 0, 700), estimate=Need(0, 700, 50, "observed", base=680)))
    learned.save()
    foreseen = replace(entry, need=replace(entry.need, base=100))
    assert need(foreseen, tmp_path) == Need(0, 700, 50, "learned", base=680)
    assert need(replace(entry, need=replace(entry.need, base=690)), tmp_path).growth == 40
    assert need(entry, tmp_path).growth == 50, "nobody knows what it takes without"


def test_an_estimate_is_not_remembered(entry: Entry, tmp_path: Path) -> None:
    view = replace(seen(entry, 0, 700), estimate=entry.need)
    assert not LearnedMemory(tmp_path, [entry], [RAM]).note(view)


def test_it_counts_for_the_same_files_flags_slots_and_devices_only(entry: Entry, tmp_path: Path) -> None:
    learned = LearnedMemory(tmp_path, [entry], [RAM])
    learned.note(seen(entry, 0, 700))
    learned.save()
    flags = entry.config.model_copy(update={"flags": ("-c", "8192")})
    assert need(replace(entry, config=flags), tmp_path) == entry.need
    assert need(replace(entry, slots=2), tmp_path) == entry.need
    assert need(entry, tmp_path, RAM, GPU) == entry.need
    entry.files[0].write_bytes(b"GGUF, another one")
    assert need(entry, tmp_path) == entry.need


@pytest.mark.parametrize(
    "content", ["", "[1]", "{", '{"a": 1}', '{"a": {"gpu": "x", "host": 1}}', "\x00", "[" * 100_000]
)
def test_a_broken_file_costs_the_knowledge_only(content: str, entry: Entry, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(content)
    assert need(entry, tmp_path) == entry.need


def test_a_folder_that_cannot_be_written_costs_the_knowledge_only(entry: Entry, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    LearnedMemory(tmp_path / "file" / "state", [entry], [RAM]).save()


def test_flags_that_take_no_memory_may_change(entry: Entry, tmp_path: Path) -> None:
    learned = LearnedMemory(tmp_path, [entry], [RAM])
    learned.note(seen(entry, 0, 700))
    learned.save()
    flags = entry.config.model_copy(update={"flags": ("--temp", "0.2", "-c", "4096", "--seed=3")})
    assert need(replace(entry, config=flags), tmp_path).source == "learned"


def test_another_build_of_llama_cpp_is_another_matter(entry: Entry, tmp_path: Path) -> None:
    learned = LearnedMemory(tmp_path, [entry], [RAM], "build 1")
    learned.note(seen(entry, 0, 700))
    learned.save()
    again = [LearnedMemory(tmp_path, [entry], [RAM], build).apply(spec_of(entry)) for build in ("build 1", "build 2")]
    assert [spec.need.source for spec in again] == ["learned", "file size"]


def test_a_model_is_known_again_wherever_it_lies(entry: Entry, tmp_path: Path) -> None:
    printed = replace(entry, fingerprint="abc")
    learned = LearnedMemory(tmp_path, [printed], [RAM])
    learned.note(seen(printed, 0, 700))
    learned.save()
    moved = tmp_path / "elsewhere.gguf"
    entry.files[0].rename(moved)
    assert need(replace(printed, files=(moved,)), tmp_path).source == "learned"
    assert need(replace(printed, files=(moved,), fingerprint="def"), tmp_path) == entry.need


def test_how_long_a_load_takes_is_kept(entry: Entry, tmp_path: Path) -> None:
    learned = LearnedMemory(tmp_path, [entry], [RAM])
    learned.note(replace(seen(entry, 0, 700), load_seconds=2.3456))
    learned.save()
    assert LearnedMemory(tmp_path, [entry], [RAM]).apply(spec_of(entry)).load_seconds == 2.35


def test_what_the_flags_say_is_not_replaced_by_what_was_seen(entry: Entry, tmp_path: Path) -> None:
    learned = LearnedMemory(tmp_path, [entry], [GPU])
    learned.note(seen(entry, 600, 700))
    learned.save()
    pinned = replace(spec_of(entry), need=Need(9, 9, 50, each=7, spare=5, pin=Pin(gpus=(1,))))
    found = LearnedMemory(tmp_path, [entry], [GPU]).apply(pinned).need
    assert found == Need(600, 700, 50, "learned", each=7, spare=5, pin=Pin(gpus=(1,)))


def test_another_configuration_has_other_keys_and_those_that_left_keep_theirs(entry: Entry, tmp_path: Path) -> None:
    learned = LearnedMemory(tmp_path, [entry], [RAM])
    learned.note(seen(entry, 0, 700))
    changed = replace(entry, config=entry.config.model_copy(update={"flags": ("-c", "8192")}))
    learned.adopt([changed])
    assert learned.apply(spec_of(changed)).need == entry.need
    learned.adopt([])
    assert learned.note(seen(changed, 0, 900)), "its last words count"
    learned.adopt([entry])
    assert learned.apply(spec_of(entry)).need.host == 700


def test_two_routers_keep_what_the_other_one_learned(entry: Entry, tmp_path: Path) -> None:
    other = replace(entry, name="other", slots=7)
    here, there = LearnedMemory(tmp_path, [entry], [RAM]), LearnedMemory(tmp_path, [other], [RAM])
    here.note(seen(entry, 0, 700))
    here.save()
    there.note(seen(other, 0, 800))
    there.save()
    assert (need(entry, tmp_path).host, need(other, tmp_path).host) == (700, 800)


def test_what_was_learned_longest_ago_goes_first(entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.learned.MAX_ENTRIES", 2)
    entries = [replace(entry, slots=slots) for slots in (1, 2, 3)]
    for one in entries:
        learned = LearnedMemory(tmp_path, [one], [RAM])
        learned.note(seen(one, 0, 700))
        learned.save()
    assert [need(one, tmp_path).source for one in entries] == ["file size", "learned", "learned"]


def test_a_figure_that_cannot_be_is_no_knowledge(entry: Entry, tmp_path: Path) -> None:
    learned = LearnedMemory(tmp_path, [entry], [RAM])
    learned.note(seen(entry, 0, 1 << 60))
    learned.save()
    assert need(entry, tmp_path) == entry.need
