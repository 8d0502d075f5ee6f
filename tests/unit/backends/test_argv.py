"""llama-server's command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from router.backends.capabilities import Capabilities
from router.backends.llama_argv import build_argv, restrained, shortened
from router.backends.llama_server import LlamaServerSpec
from router.core.types import HOST, Placement

MIB = 1024**2
NEW = frozenset({"--cache-ram", "--metrics", "--slots", "--no-ui", "--no-webui"})


def argv(*flags: str, known: frozenset[str] = NEW, **changes: Any) -> list[str]:
    wanted: dict[str, Any] = {"alias": "org/m:q4", "model_path": Path("/m/a.gguf"), "port": 8085, "slots": 3,
                              "cache_ram_mb": 512, "flags": flags}  # fmt: skip
    return list(build_argv(Capabilities(("/bin/ls",), "binary", "1", known), **wanted | changes))


def value(words: list[str], flag: str) -> str:
    assert words.count(flag) == 1
    return words[words.index(flag) + 1]


def test_says_what_to_serve_and_where() -> None:
    assert argv()[:9] == ["/bin/ls", "-m", "/m/a.gguf", "--alias", "org/m:q4", "--host", "127.0.0.1", "--port", "8085"]


def test_slots_are_always_explicit() -> None:
    assert value(argv(), "-np") == "3"


@pytest.mark.parametrize("flags", [("-np", "2"), ("--parallel", "2"), ("--parallel=2",)])
def test_slots_of_the_flags_win(flags: tuple[str, ...]) -> None:
    words = argv(*flags)
    assert "3" not in words
    assert words[-len(flags) :] == list(flags)


def test_cache_ram_is_set_because_its_default_is_8_gib() -> None:
    assert value(argv(), "--cache-ram") == "512"


@pytest.mark.parametrize("flags", [("-cram", "1"), ("--cache-ram", "1"), ("--cache-ram=1",)])
def test_cache_ram_of_the_flags_wins(flags: tuple[str, ...]) -> None:
    assert "512" not in argv(*flags)


def test_cache_ram_can_be_left_alone() -> None:
    assert "--cache-ram" not in argv(cache_ram_mb=None)


@pytest.mark.parametrize(
    ("withheld", "cache", "checkpoints"),
    [(0, 512, None), (1, 511, None), (100 * MIB, 412, None), (512 * MIB, 0, None), (513 * MIB, 0, 31),
     (612 * MIB, 0, 22), (1 << 40, 0, 0)],
)  # fmt: skip
def test_less_growth_is_first_less_of_the_prompt_cache(withheld: int, cache: int, checkpoints: int | None) -> None:
    assert restrained(withheld, 512, None, 10 * MIB) == (cache, checkpoints)


def test_what_the_user_says_of_growth_stays() -> None:
    assert restrained(100 * MIB, None, 7, 30 * MIB) == (None, 3)
    assert restrained(600 * MIB, 512, None, 0) == (0, None)
    less = Placement({HOST: 1}, withheld=100 * MIB)
    assert LlamaServerSpec(Path("m")).growth(less, 512) == (412, None)
    for own in (LlamaServerSpec(Path("m"), flags=("--cache-ram=99",)),
                LlamaServerSpec(Path("m"), env={"LLAMA_ARG_CACHE_RAM": "99"})):  # fmt: skip
        assert own.growth(less, 512) == own.growth(Placement({HOST: 1}), 512) == (None, None)


def test_context_checkpoints_are_said_where_they_are_to_be_fewer_and_the_build_knows_them() -> None:
    known = NEW | {"--ctx-checkpoints"}
    assert value(argv(checkpoints=7, known=known), "--ctx-checkpoints") == "7"
    assert "--ctx-checkpoints" not in argv(known=known) + argv(checkpoints=7)


def test_an_old_build_gets_no_flag_that_it_does_not_know() -> None:
    assert argv(known=frozenset()) == ["/bin/ls", "-m", "/m/a.gguf", "--alias", "org/m:q4", "--host", "127.0.0.1",
                                       "--port", "8085", "-np", "3"]  # fmt: skip


@pytest.mark.parametrize(("flags", "wanted"), [((), 1), (("--log-file", "x"), 0), (("--log-jsonl",), 1)])
def test_its_projection_is_asked_for(flags: tuple[str, ...], wanted: int) -> None:
    assert argv(*flags, known=NEW | {"--log-jsonl"}).count("--log-jsonl") == wanted


def test_the_page_is_off_by_the_name_this_build_knows() -> None:
    assert "--no-webui" not in argv()
    assert "--no-ui" in argv()
    assert "--no-webui" in argv(known=frozenset({"--no-webui"}))


def test_user_flags_come_last_and_untouched() -> None:
    flags = ("-c", "4096", "--jinja", "--override-kv", "a=int:1", "--metrics")
    words = argv(*flags)
    assert words[-len(flags) :] == list(flags)
    assert words.count("--metrics") == 1


FIT = NEW | {"--fit", "-lv"}


def test_what_fits_whole_is_not_fitted_again() -> None:
    words = argv(known=FIT, whole=("--fit", "off", "-c", "8192"))
    assert value(words, "--fit") == "off"
    assert value(words, "-c") == "8192"
    assert "-lv" not in words


def test_what_has_to_be_cut_says_so() -> None:
    words = argv(known=FIT)
    assert "--fit" not in words
    assert value(words, "-lv") == "4"
    assert value(argv("-lv", "2", known=FIT), "-lv") == "2"


def test_flags_win_over_what_the_router_thinks_of_the_fit() -> None:
    words = argv("-c", "1", known=FIT, whole=("--fit", "off", "-c", "8192"))
    assert words.index("8192") < words.index("1")


def test_the_split_is_told() -> None:
    assert value(argv(shares=(19_500, 12_000)), "-ts") == "19500,12000"


@pytest.mark.parametrize(
    ("slots", "squeeze", "tokens"), [(1, 0.0, 32768), (1, 0.5, 18432), (4, 0.51, 17408), (1, 1.0, 4096)]
)
def test_a_shorter_context(slots: int, squeeze: float, tokens: int) -> None:
    assert shortened((4096, 32768), slots, squeeze) == tokens
