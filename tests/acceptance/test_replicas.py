"""A hot model on real llama.cpp: one replica more when many wait and memory is idle, one less when it is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.models import Models
from tests.support.observing import at_once, metric, stream
from tests.support.router import RunningRouter, router
from tests.support.waiting import wait_until

STORY = "Once upon a time there was a token that nobody wanted to read a second time. " * 8


@pytest.fixture
def site(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    """Room for two replicas of `hot`, or for one and `other`: the caches that are booked for them see to that."""
    config = {
        "hot": models.entry("slow", "--cache-ram", "600", max_replicas=2),
        "other": models.entry("chat", "--cache-ram", "1200"),
    }
    with router(tmp_path_factory.mktemp("replicas"), config, system={"memory_budget_mb": 2600}) as running:
        yield running


def ready(site: RunningRouter) -> list[dict[str, Any]]:
    return [replica for replica in site.status("hot").get("replicas", []) if replica["status"] == "ready"]


@pytest.mark.llama
def test_a_hot_model_grows_knows_its_conversations_and_shrinks(site: RunningRouter) -> None:
    answers = at_once([lambda: site.chat("hot", max_tokens=40)] * 8)
    assert [answer.status_code for answer in answers] == [200] * 8
    wait_until(lambda: len(ready(site)) == 2, 20.0, "a second replica")
    assert len({replica["pid"] for replica in ready(site)}) == 2
    assert metric(site, "router_model_replicas", model="hot") == 2

    messages = [{"role": "user", "content": STORY}]
    with stream(site, "hot", max_tokens=2000):  # on the one replica, so that the story goes to the other
        told = site.chat("hot", messages=messages).json()
    messages += [told["choices"][0]["message"], {"role": "user", "content": "Go on."}]
    wait_until(lambda: site.status("hot")["busy"] == 0, 20.0, "both to be free")
    again = site.chat("hot", messages=messages).json()
    assert told["timings"]["cache_n"] < 100
    assert again["timings"]["cache_n"] >= told["timings"]["prompt_n"] - 1

    assert site.chat("other").status_code == 200
    assert len(site.status("hot")["replicas"]) == 1
    assert site.status("hot")["status"] == "ready"
    assert {name: model["status"] for name, model in site.client.get("/v1/models/status").json()["models"].items()} == {
        "hot": "ready",
        "other": "ready",
    }
