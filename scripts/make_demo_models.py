#!/usr/bin/env python3
"""Make small GGUF models with made-up weights: the demo's, and those that tests need.

    make_demo_models.py --demo DIR                            the three models of the demo
    make_demo_models.py -o tiny.gguf                          250 KB of random letters
    make_demo_models.py -o tiny.gguf --style chatter          speaks in sentences
    make_demo_models.py -o embed.gguf --pooling mean          so that --embedding needs no --pooling
    make_demo_models.py -o big.gguf --embd 1024 --ff 4096 --layers 16      a few 100 MB: slow enough to watch it load

Two styles. `random`: random weights, output rows that favour printable ASCII, so it writes letters and hardly ever
ends. `chatter`: a Markov chain, exactly. Every word of a fixed script is a token of its own with a one-hot embedding;
attention and feed-forward outputs are zero, so the last hidden state is the normed embedding of the last token, and
the output matrix holds the logits of what may follow it. It computes as much as its size says, and it can be read.

The tokenizer is an SPM vocabulary: markers, 256 byte tokens (any UTF-8 goes in), printable ASCII, and for `chatter`
each word with all its beginnings, since SPM only builds a token by merging two others. Tensor and key names are those
that llama.cpp's `src/models/*.cpp` ask for. Needs `gguf` and `numpy`, nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[Any]

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
POOLING = {"none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}
UNK, BOS, EOS, _, TURN_END = range(5)
TURN_END_TEXT = "<|im_end|>"
SPACE = "\u2581"  # SPM's visible space
LINE_FEED = "<0x0A>"  # what the chat template ends with

# Logits of `chatter`. The gaps are wide, so that temperature 2 still yields the script. After a sentence the next one
# is likeliest (and the greedy choice); an early end is possible, and so is any other sentence.
NEXT, STOP, JUMP = 40.0, 38.0, 36.5

HELLO = (
    "This is a demo model with made-up weights.",
    "It understands nothing, but it streams like any other.",
    "Put the path of your own GGUF file into config.json, and real answers will come out here.",
)
TOUR = (
    "Hello from the larger demo model, which knows a few more sentences than its sibling.",
    "Every word you read was sampled by llama.cpp, one token at a time.",
    "The router started this process when your request arrived, and will stop it after a while without work.",
    "While both of us fit into memory, neither has to leave.",
    "Ask for several models at once to watch requests wait in line and be served in order of priority.",
    "Nothing said so far depends on what you wrote, since these weights were made up by a script.",
)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What to make. The defaults give a 250 KB llama that writes random letters.

    Attributes:
        name: `general.name`.
        architecture: one of ARCHITECTURES.
        layers, embd, ff, heads, kv_heads: the shape; `embd` is a multiple of `heads`.
        ctx: context length in the metadata.
        type: `f16` or `f32`.
        style: `random` or `chatter`.
        script: the sentences of `chatter`; needs `embd` above the number of distinct words.
        pooling: pooling type in the metadata (one of POOLING); None leaves it out.
        chat_template: whether to write one (ChatML).
        experts, experts_used: more than 0 experts make a llama into a mixture of them.
        sliding_window: tokens that gemma3's local layers see.
    """

    name: str = "tiny"
    architecture: str = "llama"
    layers: int = 2
    embd: int = 64
    ff: int = 128
    heads: int = 4
    kv_heads: int = 2
    ctx: int = 2048
    type: str = "f16"
    seed: int = 1
    style: str = "random"
    script: tuple[str, ...] = HELLO
    pooling: str | None = None
    chat_template: bool = True
    experts: int = 0
    experts_used: int = 2
    sliding_window: int = 64

    @property
    def head_size(self) -> int:
        return self.embd // self.heads

    @property
    def kv_size(self) -> int:
        return self.head_size * self.kv_heads

    def check(self) -> None:
        """Raise ValueError at what cannot be built."""
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"unknown architecture {self.architecture!r}; known: {', '.join(ARCHITECTURES)}")
        if self.style not in STYLES:
            raise ValueError(f"unknown style {self.style!r}; known: {', '.join(STYLES)}")
        if self.type not in TYPES:
            raise ValueError(f"unknown type {self.type!r}; known: {', '.join(TYPES)}")
        if self.pooling is not None and self.pooling not in POOLING:
            raise ValueError(f"unknown pooling {self.pooling!r}; known: {', '.join(POOLING)}")
        if min(self.layers, self.embd, self.ff, self.heads, self.kv_heads, self.ctx) < 1:
            raise ValueError("layers, embd, ff, heads, kv_heads and ctx must be positive")
        if self.embd % (2 * self.heads) or self.heads % self.kv_heads:
            raise ValueError("embd must be a multiple of 2 x heads, and heads a multiple of kv_heads")
        if self.experts and (self.architecture != "llama" or not 0 < self.experts_used <= self.experts):
            raise ValueError("experts need the llama architecture, and 1 to `experts` of them used")


# ---------------------------------------------------------------------------------------------------------------------
# Vocabulary


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Token texts and types in the order of their ids; `first_plain` is the first that is no marker and no byte."""

    texts: tuple[str, ...]
    types: tuple[int, ...]
    first_plain: int


def vocabulary(words: Iterable[str] = ()) -> Vocabulary:
    """Markers, bytes, printable ASCII, and these words (with SPACE for a space) with all their beginnings."""
    markers = ["<unk>", "<s>", "</s>", "<|im_start|>", TURN_END_TEXT]
    raw_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    plain = dict.fromkeys([SPACE, *map(chr, range(33, 127))])
    for word in words:
        plain |= dict.fromkeys(word[:end] for end in range(1, len(word) + 1))
    kind = gguf.TokenType
    types = [kind.UNKNOWN, *[kind.CONTROL] * 4, *[kind.BYTE] * len(raw_bytes), *[kind.NORMAL] * len(plain)]
    return Vocabulary((*markers, *raw_bytes, *plain), tuple(map(int, types)), len(markers) + len(raw_bytes))


def tokens_of(script: Sequence[str]) -> list[list[str]]:
    """Each sentence as words, joined where a word alone would not tell what follows it.

    Raises ValueError when two sentences end in the same word: then nothing could tell which one comes next.
    """
    sentences = [[SPACE + word for word in sentence.split()] for sentence in script]
    while unclear := _unclear(sentences):
        sentences = [_joined(sentence, unclear) for sentence in sentences]
    ends = [sentence[-1] for sentence in sentences]
    inner = {word for sentence in sentences for word in sentence[:-1]}
    if len(set(ends)) < len(ends) or inner.intersection(ends):
        raise ValueError("the sentences of a script must end in different words, found nowhere else in it")
    return sentences


def _unclear(sentences: list[list[str]]) -> set[str]:
    """Words that are followed by different ones in different places."""
    followers: dict[str, set[str]] = {}
    for sentence in sentences:
        for word, follower in pairwise(sentence):
            followers.setdefault(word, set()).add(follower)
    return {word for word, found in followers.items() if len(found) > 1}


def _joined(sentence: list[str], unclear: set[str]) -> list[str]:
    words = iter(sentence)
    return [word + next(words, "") if word in unclear else word for word in words]


# ---------------------------------------------------------------------------------------------------------------------
# Styles: what the embeddings, the output matrix and the layers' outputs hold


@dataclass(frozen=True, slots=True)
class Ends:
    """Both ends of the model: (tokens x embd) each, and whether the layers in between add nothing."""

    vocabulary: Vocabulary
    embedding: Matrix
    output: Matrix
    silent_layers: bool


def random_ends(spec: ModelSpec, rng: np.random.Generator) -> Ends:
    """Logits of a few units for printable characters, near 0 for markers and bytes: an end is rare."""
    words = vocabulary()
    shape = (len(words.texts), spec.embd)
    embedding = rng.standard_normal(shape, dtype=np.float32)
    output = rng.standard_normal(shape, dtype=np.float32) * np.float32(3 / spec.embd**0.5)
    output[: words.first_plain] *= 0.05
    return Ends(words, embedding, output, silent_layers=False)


def chatter_ends(spec: ModelSpec, rng: np.random.Generator) -> Ends:
    """One-hot states: 0 for a token outside the script, which is answered by its first sentence, then one per word."""
    del rng
    sentences = tokens_of(spec.script)
    first, opener = sentences[0][0], sentences[0][0].removeprefix(SPACE)
    scripted = [LINE_FEED, *dict.fromkeys(word for sentence in sentences for word in sentence)]
    if len(scripted) >= spec.embd:
        raise ValueError(f"the script has {len(scripted) - 1} distinct words; embd must be larger than that")
    states = {word: position for position, word in enumerate(scripted, start=1)}
    states[opener] = states[first]
    words = vocabulary([*scripted[1:], opener])
    ids = {text: index for index, text in enumerate(words.texts)}
    embedding = np.zeros((len(ids), spec.embd), dtype=np.float32)
    output = np.zeros_like(embedding)
    for text, index in ids.items():
        embedding[index, states.get(text, 0)] = 1
    moves = [("", first, NEXT), (LINE_FEED, opener, NEXT), *_moves(sentences)]
    for before, after, logit in moves:
        # RMS norm turns a one-hot row into sqrt(embd) at that place.
        output[ids[after], states.get(before, 0)] = logit / spec.embd**0.5
    return Ends(words, embedding, output, silent_layers=True)


def _moves(sentences: list[list[str]]) -> Iterable[tuple[str, str, float]]:
    """(word, what may follow it, logit)."""
    for sentence, following in zip(sentences, [*sentences[1:], [TURN_END_TEXT]], strict=True):
        for word, after in pairwise(sentence):
            yield word, after, NEXT
        for other in sentences:
            yield sentence[-1], other[0], JUMP
        yield sentence[-1], TURN_END_TEXT, STOP
        yield sentence[-1], following[0], NEXT


STYLES: dict[str, Callable[[ModelSpec, np.random.Generator], Ends]] = {"random": random_ends, "chatter": chatter_ends}
TYPES = {
    "f16": (np.float16, gguf.LlamaFileType.MOSTLY_F16),
    "f32": (np.float32, gguf.LlamaFileType.ALL_F32),
}


# ---------------------------------------------------------------------------------------------------------------------
# Architectures: metadata and tensors that llama.cpp asks for


class Builder:
    """Adds the tensors of one model to a GGUF writer."""

    def __init__(self, writer: gguf.GGUFWriter, spec: ModelSpec, rng: np.random.Generator) -> None:
        self.writer, self.spec, self.rng = writer, spec, rng

    def matrix(self, name: str, *shape: int, silent: bool = False) -> None:
        """A random matrix (rows x columns, as numpy counts), scaled to keep the norm; zeros if silent."""
        values = np.zeros(shape, np.float32) if silent else self.rng.standard_normal(shape, dtype=np.float32)
        self.add(name, values / np.float32(shape[-1] ** 0.5))

    def add(self, name: str, values: Matrix) -> None:
        self.writer.add_tensor(name, values.astype(TYPES[self.spec.type][0]))

    def ones(self, name: str, size: int) -> None:
        self.writer.add_tensor(name, np.ones(size, dtype=np.float32))

    def zeros(self, name: str, size: int) -> None:
        self.writer.add_tensor(name, np.zeros(size, dtype=np.float32))

    def attention(self, block: str, *, silent: bool) -> None:
        spec = self.spec
        self.matrix(f"{block}.attn_q.weight", spec.embd, spec.embd)
        self.matrix(f"{block}.attn_k.weight", spec.kv_size, spec.embd)
        self.matrix(f"{block}.attn_v.weight", spec.kv_size, spec.embd)
        self.matrix(f"{block}.attn_output.weight", spec.embd, spec.embd, silent=silent)

    def feed_forward(self, block: str, *, silent: bool) -> None:
        spec = self.spec
        experts = (spec.experts,) if spec.experts else ()
        suffix = "_exps" if spec.experts else ""
        if spec.experts:
            self.matrix(f"{block}.ffn_gate_inp.weight", spec.experts, spec.embd)
        self.matrix(f"{block}.ffn_gate{suffix}.weight", *experts, spec.ff, spec.embd)
        self.matrix(f"{block}.ffn_up{suffix}.weight", *experts, spec.ff, spec.embd)
        self.matrix(f"{block}.ffn_down{suffix}.weight", *experts, spec.embd, spec.ff, silent=silent)


def llama(build: Builder, block: str, *, silent: bool) -> None:
    """Llama, Mistral; with experts Mixtral."""
    build.ones(f"{block}.attn_norm.weight", build.spec.embd)
    build.attention(block, silent=silent)
    build.ones(f"{block}.ffn_norm.weight", build.spec.embd)
    build.feed_forward(block, silent=silent)


def qwen2(build: Builder, block: str, *, silent: bool) -> None:
    """Llama with biases on Q, K and V."""
    llama(build, block, silent=silent)
    build.zeros(f"{block}.attn_q.bias", build.spec.embd)
    build.zeros(f"{block}.attn_k.bias", build.spec.kv_size)
    build.zeros(f"{block}.attn_v.bias", build.spec.kv_size)


def qwen3(build: Builder, block: str, *, silent: bool) -> None:
    """Llama with norms on Q and K."""
    llama(build, block, silent=silent)
    build.ones(f"{block}.attn_q_norm.weight", build.spec.head_size)
    build.ones(f"{block}.attn_k_norm.weight", build.spec.head_size)


def gemma3(build: Builder, block: str, *, silent: bool) -> None:
    """Qwen3 with norms after attention and feed-forward, and five local layers to each global one."""
    qwen3(build, block, silent=silent)
    build.ones(f"{block}.post_attention_norm.weight", build.spec.embd)
    build.ones(f"{block}.post_ffw_norm.weight", build.spec.embd)


def bert(build: Builder, block: str, *, silent: bool) -> None:
    """An encoder: norms after the residual, biases with each, no gate, as many key heads as query heads."""
    spec = build.spec
    build.attention(block, silent=silent)
    for norm in ("attn_output_norm", "layer_output_norm"):
        build.ones(f"{block}.{norm}.weight", spec.embd)
        build.zeros(f"{block}.{norm}.bias", spec.embd)
    build.matrix(f"{block}.ffn_up.weight", spec.ff, spec.embd)
    build.matrix(f"{block}.ffn_down.weight", spec.embd, spec.ff, silent=silent)


ARCHITECTURES: dict[str, Callable[..., None]] = {
    "llama": llama,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "gemma3": gemma3,
    "bert": bert,
}


def _describe(writer: gguf.GGUFWriter, spec: ModelSpec) -> None:
    """The metadata of the architecture."""
    writer.add_name(spec.name)
    writer.add_file_type(TYPES[spec.type][1])
    writer.add_context_length(spec.ctx)
    writer.add_embedding_length(spec.embd)
    writer.add_block_count(spec.layers)
    writer.add_feed_forward_length(spec.ff)
    writer.add_head_count(spec.heads)
    writer.add_head_count_kv(spec.kv_heads)
    if spec.architecture == "bert":
        writer.add_layer_norm_eps(1e-5)
        writer.add_causal_attention(False)
        writer.add_token_type_count(2)
    else:
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_dimension_count(spec.head_size)
    if spec.architecture == "gemma3":
        writer.add_key_length(spec.head_size)
        writer.add_value_length(spec.head_size)
        writer.add_sliding_window(spec.sliding_window)
    if spec.experts:
        writer.add_expert_count(spec.experts)
        writer.add_expert_used_count(spec.experts_used)
    if spec.pooling:
        writer.add_pooling_type(gguf.PoolingType(POOLING[spec.pooling]))


def _describe_tokenizer(writer: gguf.GGUFWriter, spec: ModelSpec, words: Vocabulary) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text.encode() for text in words.texts])
    # A longer token outranks a shorter one, so that a word wins over its beginnings.
    writer.add_token_scores([float(len(text)) for text in words.texts])
    writer.add_token_types(words.types)
    writer.add_vocab_size(len(words.texts))
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_eot_token_id(TURN_END)
    writer.add_unk_token_id(UNK)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    # With a space of its own making before "assistant", llama.cpp's grammars would refuse the end of the prompt.
    writer.add_add_space_prefix(False)
    if spec.chat_template:
        writer.add_chat_template(CHATML)


def _add_tensors(build: Builder, ends: Ends) -> None:
    spec = build.spec
    build.add("token_embd.weight", ends.embedding)
    if spec.architecture == "bert":
        build.matrix("position_embd.weight", spec.ctx, spec.embd, silent=True)
        build.ones("token_embd_norm.weight", spec.embd)
        build.zeros("token_embd_norm.bias", spec.embd)
    else:
        build.ones("output_norm.weight", spec.embd)
        build.add("output.weight", ends.output)
    for layer in range(spec.layers):
        ARCHITECTURES[spec.architecture](build, f"blk.{layer}", silent=ends.silent_layers)


# ---------------------------------------------------------------------------------------------------------------------
# Files


def write_model(path: str | os.PathLike[str], spec: ModelSpec | None = None) -> Path:
    """Write a model; the file appears under its name when it is whole, or not at all. Raises ValueError, OSError."""
    spec, target = spec or ModelSpec(), Path(path)
    spec.check()
    rng = np.random.default_rng(spec.seed)
    ends = STYLES[spec.style](spec, rng)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with closing(gguf.GGUFWriter(temporary, spec.architecture)) as writer:
            _describe(writer, spec)
            _describe_tokenizer(writer, spec, ends.vocabulary)
            _add_tensors(Builder(writer, spec, rng), ends)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


@dataclass(frozen=True, slots=True)
class DemoModel:
    """One model of the demo: the alias to serve it under, its file, the flags llama-server needs for it."""

    alias: str
    filename: str
    flags: tuple[str, ...]
    spec: ModelSpec


DEMO_MODELS = (
    DemoModel(
        alias="demo-small",
        filename="demo-small.gguf",
        flags=(),
        spec=ModelSpec(
            name="Demo small", style="chatter", script=HELLO, embd=128, ff=256, heads=4, kv_heads=2, ctx=8192
        ),
    ),
    DemoModel(
        alias="demo-large",
        filename="demo-large.gguf",
        flags=(),
        spec=ModelSpec(
            name="Demo large", style="chatter", script=TOUR, layers=4, embd=256, ff=512, heads=8, kv_heads=4, ctx=8192
        ),
    ),
    DemoModel(
        alias="demo-embed",
        filename="demo-embed.gguf",
        flags=("--embedding", "-b", "2048", "-ub", "2048"),  # an input must fit into one batch
        spec=ModelSpec(name="Demo embed", pooling="mean", embd=128, ff=256, chat_template=False, ctx=2048, seed=3),
    ),
)
# One thread: these are so small that more of them only wait for each other.
DEMO_THREADS = ("-t", "1")
MANIFEST = "demo-models.json"
CONFIG = "config.json"


def make_demo(folder: str | os.PathLike[str]) -> list[Path]:
    """Make what is missing, damaged or outdated of the demo's models; returns the models that were written.

    A configuration that serves them is written beside them.
    """
    folder = Path(folder)
    known = _read_manifest(folder / MANIFEST)
    recipe = _digest(Path(__file__))
    written = []
    for model in DEMO_MODELS:
        path = folder / model.filename
        if not path.is_file() or known.get(model.filename) != [recipe, _digest(path)]:
            written.append(write_model(path, model.spec))
            known[model.filename] = [recipe, _digest(path)]
    if written:
        _write_json(folder / MANIFEST, known)
    _write_json(folder / CONFIG, demo_config())
    return written


def demo_config() -> dict[str, Any]:
    """The configuration of the demo; paths are relative to its own folder, which lies in the router's state folder."""
    models = {
        model.alias: {"model_path": model.filename, "flags": [*DEMO_THREADS, *model.flags]} for model in DEMO_MODELS
    }
    return {"system": {"state_dir": ".."}, "models": models}


def _write_json(path: Path, value: Any) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------------------------------------------------------------
# Command line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--demo", metavar="DIR", help="make the demo's models there, unless they are there already")
    target.add_argument("-o", "--out", metavar="FILE", help="make one model, as the options say")
    choices: dict[str, Iterable[str]] = {
        "architecture": ARCHITECTURES,
        "style": STYLES,
        "type": TYPES,
        "pooling": POOLING,
    }
    for field in fields(ModelSpec):
        if field.name in {"script", "chat_template"}:
            continue
        names = ["--" + field.name.replace("_", "-")] + (["--arch"] if field.name == "architecture" else [])
        kind = int if isinstance(field.default, int) else str
        parser.add_argument(*names, type=kind, default=field.default, choices=choices.get(field.name))
    parser.add_argument("--no-chat-template", dest="chat_template", action="store_false")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = vars(_parser().parse_args(argv))
    demo, out = options.pop("demo"), options.pop("out")
    try:
        written = make_demo(demo) if demo else [write_model(out, replace(ModelSpec(), **options))]
    except (OSError, ValueError) as error:
        print(f"make_demo_models: {error}", file=sys.stderr)
        return 1
    for path in written:
        print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
