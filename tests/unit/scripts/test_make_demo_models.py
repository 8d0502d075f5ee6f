"""The generator of small GGUF models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from scripts import make_demo_models as make
from scripts.make_demo_models import DEMO_MODELS, HELLO, MANIFEST, SPACE, TOUR, ModelSpec, make_demo, write_model


def field(path: Path, name: str) -> Any:
    found = gguf.GGUFReader(path).get_field(name)
    return None if found is None else found.contents()


def spoken(path: Path, limit: int = 500) -> str:
    """What greedy decoding of a chatter model says after the chat template, computed here by hand."""
    reader = gguf.GGUFReader(path)
    weights = {tensor.name: tensor.data.astype(np.float32) for tensor in reader.tensors}
    texts = [text if isinstance(text, str) else text.decode() for text in field(path, "tokenizer.ggml.tokens")]
    token, said = texts.index(make.LINE_FEED), ""
    for _ in range(limit):
        state = weights["token_embd.weight"][token]
        state /= np.sqrt(np.mean(state**2) + 1e-5)
        token = int(np.argmax(weights["output.weight"] @ state))
        if token == make.TURN_END:
            return said
        said += texts[token].replace(SPACE, " ")
    pytest.fail("the model never ends")


@pytest.mark.parametrize("script", [HELLO, TOUR])
def test_chatter_says_its_script_and_ends(tmp_path: Path, script: tuple[str, ...]) -> None:
    path = write_model(tmp_path / "m.gguf", ModelSpec(style="chatter", script=script, embd=128))
    assert spoken(path) == " ".join(script)


def test_chatter_layers_add_nothing(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", ModelSpec(style="chatter"))
    silent = [t for t in gguf.GGUFReader(path).tensors if t.name.endswith(("attn_output.weight", "ffn_down.weight"))]
    assert len(silent) == 4
    assert not any(tensor.data.any() for tensor in silent)


def test_words_that_lead_to_two_places_are_joined() -> None:
    assert make.tokens_of(["one a two.", "six a ten."]) == [
        [SPACE + "one", SPACE + "a" + SPACE + "two."],
        [SPACE + "six", SPACE + "a" + SPACE + "ten."],
    ]


@pytest.mark.parametrize("script", [("one end.", "two end."), ("one two", "two three")])
def test_sentences_must_end_differently(script: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="different words"):
        make.tokens_of(script)


def test_the_vocabulary_takes_any_utf8_and_has_no_twins() -> None:
    words = make.vocabulary([SPACE + "hello"])
    assert len(set(words.texts)) == len(words.texts) == len(words.types)
    assert [words.texts[5 + byte] for byte in (0, 255)] == ["<0x00>", "<0xFF>"]
    assert SPACE + "hell" in words.texts


@pytest.mark.parametrize("architecture", make.ARCHITECTURES)
def test_metadata(tmp_path: Path, architecture: str) -> None:
    spec = ModelSpec(architecture=architecture, layers=3, embd=32, ctx=77, kv_heads=4, pooling="cls")
    path = write_model(tmp_path / "m.gguf", spec)
    assert field(path, "general.architecture") == architecture
    assert field(path, f"{architecture}.block_count") == 3
    assert field(path, f"{architecture}.embedding_length") == 32
    assert field(path, f"{architecture}.context_length") == 77
    assert field(path, f"{architecture}.pooling_type") == gguf.PoolingType.CLS
    assert field(path, "tokenizer.chat_template") == make.CHATML


def test_a_template_can_be_left_out(tmp_path: Path) -> None:
    assert field(write_model(tmp_path / "m.gguf", ModelSpec(chat_template=False)), "tokenizer.chat_template") is None


def test_a_seed_makes_the_same_file_again(tmp_path: Path) -> None:
    one, two, other = (write_model(tmp_path / f"{n}.gguf", ModelSpec(seed=seed)) for n, seed in enumerate((1, 1, 2)))
    assert one.read_bytes() == two.read_bytes() != other.read_bytes()


@pytest.mark.parametrize(
    "spec",
    [
        ModelSpec(architecture="gpt9"),
        ModelSpec(style="poem"),
        ModelSpec(type="q4_0"),
        ModelSpec(pooling="max"),
        ModelSpec(layers=0),
        ModelSpec(embd=60),
        ModelSpec(kv_heads=3),
        ModelSpec(experts=2, experts_used=3),
        ModelSpec(style="chatter", script=TOUR, embd=64),
    ],
)
def test_an_impossible_model_leaves_nothing_behind(tmp_path: Path, spec: ModelSpec) -> None:
    with pytest.raises(ValueError, match=r".+"):
        write_model(tmp_path / "m.gguf", spec)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_model(tmp_path / "m.gguf")
    before = path.read_bytes()

    def full(self: gguf.GGUFWriter, **_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", full)
    with pytest.raises(OSError, match="No space left"):
        write_model(path, ModelSpec(seed=9))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


class TestDemo:
    def test_it_is_made_once(self, tmp_path: Path) -> None:
        assert [path.name for path in make_demo(tmp_path)] == [model.filename for model in DEMO_MODELS]
        assert make_demo(tmp_path) == []
        assert sum(path.stat().st_size for path in tmp_path.glob("*.gguf")) < 10_000_000

    def test_what_is_damaged_or_missing_is_made_again(self, tmp_path: Path) -> None:
        small, large, embed = make_demo(tmp_path)
        small.write_bytes(small.read_bytes()[:-1])
        large.unlink()
        assert make_demo(tmp_path) == [small, large]
        assert make_demo(tmp_path) == []
        assert embed.is_file()

    @pytest.mark.parametrize("manifest", ["", "{", "[]", '{"demo-small.gguf": 1}'])
    def test_a_broken_manifest_is_no_proof(self, tmp_path: Path, manifest: str) -> None:
        made = make_demo(tmp_path)
        (tmp_path / MANIFEST).write_text(manifest)
        assert make_demo(tmp_path) == made

    def test_the_embedding_model_knows_its_pooling(self, tmp_path: Path) -> None:
        make_demo(tmp_path)
        assert field(tmp_path / "demo-embed.gguf", "llama.pooling_type") == gguf.PoolingType.MEAN


class TestCommandLine:
    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, make.__file__, *argv]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def test_it_runs_from_anywhere(self, tmp_path: Path) -> None:
        done = self.run("-o", str(tmp_path / "m.gguf"), "--arch", "qwen3", "--layers", "1", "--no-chat-template")
        assert (done.returncode, done.stderr) == (0, "")
        assert field(tmp_path / "m.gguf", "general.architecture") == "qwen3"

    def test_a_bad_wish_is_answered_in_a_line(self, tmp_path: Path) -> None:
        done = self.run("-o", str(tmp_path / "m.gguf"), "--embd", "7")
        assert done.returncode == 1
        assert done.stderr == (
            "make_demo_models: embd must be a multiple of 2 x heads, and heads a multiple of kv_heads\n"
        )
