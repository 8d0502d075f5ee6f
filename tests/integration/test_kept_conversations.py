"""Conversations over an unload: a fake llama-server that misbehaves, and real llama.cpp behind a running router."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.backends.llama_child import LlamaServerChild
from router.backends.llama_server import LlamaServerLauncher, LlamaServerSpec
from router.core.types import HOST, Placement
from router.engine.ports import LaunchError
from tests.fakes.fake_binary import make_fake_binary
from tests.support.models import Models
from tests.support.observing import metric, wait_for_status
from tests.support.router import RunningRouter, free_port, router
from tests.support.waiting import until

ON_CPU = Placement({HOST: 1})
STORY = "Once upon a time there was a token that nobody wanted to read a second time. " * 10
OTHER = "Something else altogether, and of no less interest to those who have read it. " * 10


@dataclass
class Site:
    """One model on a fake llama-server, and its state folder."""

    folder: Path
    launcher: LlamaServerLauncher
    children: list[LlamaServerChild] = field(default_factory=list)

    async def start(self) -> int:
        """A child that serves; returns how many conversations it has got back."""
        self.children.append(await self.launcher.launch("m", len(self.children) + 1, ON_CPU))
        async with asyncio.timeout(10):
            await self.child.ready()
            return await self.child.restore_conversations()

    async def swap(self) -> tuple[int, int]:
        """Out of memory and back: conversations saved and restored."""
        saved = await self.child.save_conversations()
        await self.child.stop(grace=5)
        return saved, await self.start()

    @property
    def child(self) -> LlamaServerChild:
        return self.children[-1]

    def trouble(self, what: str) -> None:
        """From now on; empty = none any more."""
        for file in (self.folder / "trouble").iterdir():
            file.unlink()
        if what:
            (self.folder / "trouble" / what).touch()

    async def ask(self, *said: str) -> None:
        messages = [{"role": "user", "content": content} for content in said]
        await self._call("POST", "/v1/chat/completions", json={"messages": messages, "max_tokens": 1})

    async def cached(self) -> int:
        """Tokens that this child had not to read."""
        page = await self._call("GET", "/metrics")
        return int(page.text.partition("\nllamacpp:prompt_tokens_cached_total ")[2].split()[0])

    def kept(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "state" / "conversations").glob("*/*"))

    async def _call(self, method: str, path: str, **request: Any) -> httpx.Response:
        upstream = self.child.upstream
        async with httpx.AsyncClient(base_url=upstream.url, timeout=10) as client:
            answer = await client.request(method, path, headers={"authorization": upstream.authorization}, **request)
        assert answer.status_code == 200
        return answer


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    (tmp_path / "trouble").mkdir()
    flags = ("--prompt-ms", "2", "--slot-bytes", "64", "--slot-trouble", str(tmp_path / "trouble"))
    launcher = LlamaServerLauncher(
        {"m": LlamaServerSpec(tmp_path / "m.gguf", slots=2, flags=flags)},
        state_dir=tmp_path / "state",
        base_port=free_port(),
        binary=make_fake_binary(tmp_path),
        keep_conversations_mb=1,
    )
    made = Site(tmp_path, launcher)
    await made.start()
    yield made
    for child in made.children:
        await child.stop(grace=0)
    await launcher.close()


async def test_what_was_said_is_known_after_a_swap(site: Site) -> None:
    await site.ask(STORY)
    assert await site.swap() == (1, 1)
    await site.ask(STORY, "Go on.")
    assert await site.cached() == len(STORY)


async def test_each_slot_has_its_own(site: Site) -> None:
    await site.ask(STORY)
    await site.ask(OTHER)
    assert await site.swap() == (2, 2)
    await site.ask(STORY, "Go on.")
    await site.ask(OTHER, "Go on.")
    assert await site.cached() == len(STORY) + len(OTHER)


async def test_what_no_model_can_go_on_with_is_cleared_away(site: Site) -> None:
    await site.ask(STORY)
    assert await site.swap() == (1, 1)
    await site.child.save_conversations()
    assert site.kept()
    await site.launcher.tidy()
    assert site.kept(), "nothing has changed"
    site.launcher.adopt({}, working_dir=site.folder)
    await site.launcher.tidy()
    assert not site.kept()
    with pytest.raises(LaunchError, match="removed from the configuration"):
        await site.launcher.launch("m", 9, ON_CPU)


async def test_a_conversation_that_goes_on_is_kept_once(site: Site) -> None:
    said = [STORY]
    for turn in range(3):
        await site.ask(*said)
        assert await site.swap() == (1, 1)
        assert len(site.kept()) == 1
        said.append(f"Turn {turn}.")


async def test_what_was_not_asked_again_is_neither_lost_nor_written_twice(site: Site) -> None:
    await site.ask(STORY)
    await site.swap()
    before = site.kept()
    assert await site.swap() == (0, 1)
    assert site.kept() == before


async def test_more_conversations_than_slots_survive(site: Site) -> None:
    stories = [f"{number} {STORY}" for number in range(4)]
    for story in stories:
        await site.ask(story)
        await site.swap()
    assert len(site.kept()) == 4
    await site.ask(stories[0], "Go on.")
    await site.ask(stories[3], "Go on.")
    assert await site.cached() == len(stories[0]) + len(stories[3])
    assert await site.swap() == (2, 4)
    assert len(site.kept()) == 4


async def test_what_was_kept_goes_to_the_first_of_several_children(site: Site) -> None:
    await site.ask(STORY)
    await site.swap()
    before = site.kept()
    being_written = next((site.folder / "state" / "conversations").iterdir()) / "0.part"
    being_written.touch()
    assert await site.start() == 0
    assert being_written.exists(), "the first child may be at it"
    await site.ask(OTHER)
    assert await site.child.save_conversations() == 1
    assert len(site.kept()) == len(before) + 2
    assert {file.name for file in (site.folder / "state" / "logs").iterdir()} == {"m.log", "m+2.log"}


async def test_what_only_the_router_asked_is_no_conversation(site: Site) -> None:
    for number in range(4):
        await site.ask(f"{number} {STORY}")
        await site.swap()
    before = site.kept()
    assert await site.swap() == (0, 4)
    assert site.kept() == before


async def test_a_short_prompt_is_read_sooner_than_restored(site: Site) -> None:
    await site.ask("Hi")
    assert await site.swap() == (0, 0)


async def test_a_file_that_crashes_its_reader_does_so_once(site: Site) -> None:
    await site.ask(STORY)
    site.trouble("crash")
    assert await site.swap() == (1, 0)
    async with asyncio.timeout(5):
        await site.child.wait()
    assert await site.start() == 0
    assert await site.child.healthy()
    assert site.kept() == []


@pytest.mark.parametrize("trouble", ["short", "hang"])
async def test_a_save_that_fails_leaves_nothing_and_holds_nobody_up(site: Site, trouble: str) -> None:
    await site.ask(STORY)
    site.trouble(trouble)
    async with asyncio.timeout(2):  # the save may take a quarter of 1.6 s
        assert await site.child.save_conversations() == 0
    assert site.kept() == []


async def test_what_cannot_be_restored_is_dropped(site: Site) -> None:
    await site.ask(STORY)
    site.trouble("forget")
    assert await site.swap() == (1, 0)
    assert site.kept() == []


async def test_a_context_of_another_length_starts_cold_and_finds_its_own_again(site: Site) -> None:
    await site.ask(STORY)
    assert await site.child.save_conversations() == 1
    await site.child.stop(grace=5)
    site.trouble("shorten")
    assert await site.start() == 0, "as if llama.cpp's fit had found less room this time"
    site.trouble("")
    assert await site.swap() == (0, 1)


async def test_a_restore_that_is_given_up_leaves_nothing(site: Site) -> None:
    await site.ask(STORY)
    await site.child.save_conversations()
    await site.child.stop(grace=5)
    site.trouble("hang")
    site.children.append(await site.launcher.launch("m", 2, ON_CPU))
    async with asyncio.timeout(10):
        await site.child.ready()
    restoring = asyncio.create_task(site.child.restore_conversations())
    await until(lambda: any(name.endswith(".part") for name in site.kept()))
    restoring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await restoring
    assert site.kept() == []


async def test_a_build_without_slot_files_is_left_in_peace(site: Site) -> None:
    await site.ask(STORY)
    site.trouble("refuse")
    assert await site.swap() == (0, 0)
    site.trouble("")
    await site.ask(STORY)
    assert await site.swap() == (0, 0)


async def test_a_model_that_reads_anew_all_the_same_is_left_in_peace(site: Site) -> None:
    await site.ask(STORY)
    site.trouble("vain")
    assert await site.swap() == (1, 1)
    await site.ask(STORY, "Go on.")
    await site.swap()
    assert site.kept() == []
    site.trouble("")
    await site.ask(STORY)
    assert await site.swap() == (0, 0)


async def test_neither_raises_when_the_child_is_gone(site: Site) -> None:
    await site.ask(STORY)
    await site.child.stop(grace=0)
    assert await site.child.save_conversations() == await site.child.restore_conversations() == 0


async def test_without_its_folder_a_model_runs_all_the_same(site: Site) -> None:
    await site.ask(STORY)
    for path in (site.folder / "state" / "conversations").iterdir():
        path.rmdir()
    assert await site.child.save_conversations() == 0
    assert await site.child.healthy()


# -- real llama.cpp ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_at_once(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    configured = {
        "slow": models.entry("slow", "-np", "2"),
        "other": models.entry("chat"),
        "embed": models.entry("embed"),
    }
    folder = tmp_path_factory.mktemp("one")
    with router(folder, configured, system={"max_concurrent_models": 1}) as running:
        yield running
        assert "Traceback" not in running.log


def converse(router: RunningRouter, messages: Sequence[dict[str, str]]) -> dict[str, Any]:
    answer = router.chat("slow", messages=messages, max_tokens=8, temperature=0)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def following(messages: Sequence[dict[str, str]], answer: dict[str, Any]) -> list[dict[str, str]]:
    said = answer["choices"][0]["message"]["content"]
    return [*messages, {"role": "assistant", "content": said}, {"role": "user", "content": "Go on."}]


@pytest.mark.llama
def test_two_conversations_survive_an_eviction(one_at_once: RunningRouter) -> None:
    chats = [[{"role": "user", "content": text}] for text in (STORY, OTHER)]
    answers = [converse(one_at_once, chat) for chat in chats]
    assert one_at_once.chat("other").status_code == 200
    assert metric(one_at_once, "router_conversations_total", model="slow", event="saved") == 2
    for chat, answer in zip(reversed(chats), reversed(answers), strict=True):
        timings = converse(one_at_once, following(chat, answer))["timings"]
        assert timings["cache_n"] > 0.9 * answer["timings"]["prompt_n"]
        assert timings["prompt_n"] < 0.2 * answer["timings"]["prompt_n"]
    assert metric(one_at_once, "router_conversations_total", model="slow", event="restored") == 2
    assert metric(one_at_once, "router_load_phase_seconds_count", model="slow", phase="read") >= 2


@pytest.mark.llama
def test_more_conversations_than_slots_survive_several_evictions(one_at_once: RunningRouter) -> None:
    chats = [[{"role": "user", "content": f"{number}: {STORY}"}] for number in range(4)]
    answers = []
    for chat in chats:
        answers.append(converse(one_at_once, chat))
        assert one_at_once.chat("other").status_code == 200
    for chat, answer in zip(chats, answers, strict=True):
        timings = converse(one_at_once, following(chat, answer))["timings"]
        assert timings["cache_n"] > 0.9 * answer["timings"]["prompt_n"]


@pytest.mark.llama
def test_the_answer_is_what_it_would_have_been(one_at_once: RunningRouter) -> None:
    chat = [{"role": "user", "content": "Say it again. " + STORY}]
    more = following(chat, converse(one_at_once, chat))
    expected = converse(one_at_once, more)["choices"][0]["message"]["content"]
    for force in (True, False):  # without its memory, then with it
        one_at_once.client.post("/v1/models/eject", json={"model": "slow", "force": force}).raise_for_status()
        wait_for_status(one_at_once, "slow", "off")
        assert converse(one_at_once, more)["choices"][0]["message"]["content"] == expected


@pytest.mark.llama
def test_models_that_only_embed_keep_nothing(one_at_once: RunningRouter) -> None:
    body = {"model": "embed", "input": STORY[:200]}
    assert one_at_once.client.post("/v1/embeddings", json=body).status_code == 200
    assert one_at_once.chat("other").status_code == 200
    assert metric(one_at_once, "router_conversations_total", model="embed") == 0


@pytest.mark.llama
def test_the_end_of_the_router_writes_nothing(models: Models, tmp_path: Path) -> None:
    with router(tmp_path, {"slow": models.entry("slow")}) as running:
        converse(running, [{"role": "user", "content": STORY}])
        running.stop()
        assert list((tmp_path / "state" / "conversations").glob("*/*")) == []


@pytest.mark.llama
def test_it_can_be_switched_off(models: Models, tmp_path: Path) -> None:
    leftover = tmp_path / "state" / "conversations" / "old"
    leftover.mkdir(parents=True)
    with router(tmp_path, {"slow": models.entry("slow")}, system={"keep_conversations": False}) as running:
        converse(running, [{"role": "user", "content": STORY}])
        running.client.post("/v1/models/eject", json={"model": "slow"}).raise_for_status()
        assert "--slot-save-path" not in json.dumps(running.status("slow"))
    assert list((tmp_path / "state" / "conversations").iterdir()) == []
