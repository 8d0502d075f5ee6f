"""The graphs that llama.cpp computes, as far as they take memory.

One recipe serves all transformers: what a layer does shows in the tensors it has. Sources (llama.cpp b11434):
`src/llama-graph.cpp` (`build_inp_embd`, `build_qkv`, `build_attn`, `build_attn_mha`, `build_ffn`, `build_moe_ffn`,
`build_pooling`, `build_rs`), `src/models/{llama,qwen3,gemma2,gemma3,bert,deepseek2,mamba-base}.cpp`, and
`llama_context::sched_reserve` for the sizes that are reserved.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from router.core.estimate.caches import effective_ubatch, window_cells
from router.core.estimate.feed_forward import feed, feeds
from router.core.estimate.graph import F16, F32, I32, I64, Graph, Tensor
from router.core.estimate.recurrence import recur
from router.core.estimate.run import CACHE_TYPES, Run
from router.core.estimate.shape import Layer, Shape

_ROTATED = 64  # heads that are a multiple of this are rotated before they are quantised into the cache
_POOL_MEAN = 1
# Source: `llm_arch_supports_mixed_batch`.
# They leave out the tokens that nobody asks about only after the last layer.
_LATE_CHOICE = frozenset({"qwen35", "qwen35moe", "qwen3next"})
_UNMIXED = frozenset({"cogvlm", "deepseek4", "granite-switch", "eagle3", "dflash", "gemma4-assistant"})


def compute_graph(shape: Shape, run: Run) -> Graph:
    """The largest graph: a whole batch, the context full."""
    return _Recipe(shape, run).build()


@dataclass(slots=True)
class _Attention:
    """The inputs of one kind of attention (whole context, or a window of it)."""

    cells: int
    mask: Tensor
    key_rows: Tensor
    value_rows: Tensor
    key_turn: Tensor | None = None
    value_turn: Tensor | None = None


@dataclass(slots=True)
class _Recipe:
    shape: Shape
    run: Run
    graph: Graph = field(default_factory=Graph)
    tokens: int = 0
    streams: int = 1
    outputs: int = 0

    def build(self) -> Graph:
        shape, run = self.shape, self.run
        tokens = effective_ubatch(shape, run)
        self.tokens = -(-tokens // run.slots) * run.slots
        self.streams = run.cells(shape.train_ctx)[1]
        pooled = run.embedding or bool(run.pooling)
        self.outputs = min(self.tokens, run.batch if pooled or not shape.causal else run.slots * (1 + run.draft))
        hidden = self._inputs()
        positions = self.graph.input(self.tokens, width=I32)
        whole, window = self._attention(windowed=False), self._attention(windowed=True)
        wanted = self.graph.input(self.outputs, width=I32)
        last = len(shape.trunk) - 1
        for index, layer in enumerate(shape.trunk):
            attention = window if layer.windowed else whole
            early = index == last and shape.architecture not in _LATE_CHOICE
            hidden = self._layer(layer, hidden, positions, attention, wanted if early else None)
        self._head(hidden, wanted)
        return self.graph

    # -- ends --------------------------------------------------------------------------------------------------------

    def _inputs(self) -> Tensor:
        """`build_inp_embd`, and what models do to it at once."""
        graph, embd = self.graph, self.shape.embd
        tokens = graph.input(self.tokens, width=I32)
        rows = graph.op((embd, self.tokens), graph.external(), tokens)
        graph.expand(rows)
        # Embeddings from outside (of an image, say), alone or between tokens: reserved though hardly ever used.
        graph.expand(graph.input(embd, self.tokens))
        mixed = graph.op(rows.shape, graph.external(), graph.input(self.tokens, width=I32))
        slots = graph.input(self.tokens, width=I64)
        copied = graph.op(rows.shape, graph.input(embd, self.tokens))
        if self.shape.architecture not in _UNMIXED:
            graph.expand(graph.store(copied, mixed, slots))
        architecture = self.shape.architecture
        if architecture in ("gemma3", "gemma4"):
            rows = graph.op(rows.shape, rows, graph.input(1, self.tokens), in_place=True)
        elif architecture in ("gemma", "gemma2"):
            rows = graph.op(rows.shape, rows, in_place=True)
        graph.expand(rows)
        if "bert" in architecture:
            rows = graph.op(rows.shape, rows, graph.external(), in_place=True)
            if architecture == "bert":
                places = graph.op(rows.shape, graph.external(), graph.input(self.tokens, width=I32))
                rows = graph.op(rows.shape, places, rows, in_place=True)
            rows = self.graph.norm(rows, bias=True)
        return rows

    def _head(self, hidden: Tensor, wanted: Tensor) -> None:
        graph, shape = self.graph, self.shape
        pooling = self.run.pooling if self.run.pooling is not None else shape.pooling
        if "bert" not in shape.architecture:
            hidden = self.graph.norm(hidden)
        if shape.architecture in _LATE_CHOICE:
            hidden.kept = True  # a draft head may want them all
            hidden = graph.op((shape.embd, self.outputs), hidden, wanted)
        hidden.kept = True
        if "bert" not in shape.architecture:
            logits = self.graph.matrix(hidden, shape.vocab)
            if shape.final_cap:
                for _ in range(3):
                    logits = graph.op(logits.shape, logits, in_place=True)
            logits.kept = True
            graph.expand(logits)
        graph.expand(hidden)
        if self.run.embedding and pooling:
            graph.expand(self._pool(hidden, pooling))

    def _pool(self, hidden: Tensor, pooling: int) -> Tensor:
        graph, embd = self.graph, self.shape.embd
        if pooling != _POOL_MEAN:
            return graph.op((embd, self.run.slots), hidden, graph.input(self.run.slots, width=I32))
        turned = graph.op((self.outputs, embd), graph.view(hidden, self.outputs, embd))
        pooled = graph.op((embd, self.run.slots), turned, graph.input(self.tokens, self.run.slots))
        pooled.kept = True
        return pooled

    # -- layers ------------------------------------------------------------------------------------------------------

    def _layer(
        self, layer: Layer, hidden: Tensor, positions: Tensor, attention: _Attention, wanted: Tensor | None
    ) -> Tensor:
        bert = "bert" in self.shape.architecture
        state = hidden if bert else self.graph.norm(hidden)
        mixed = self._mix(layer, state, positions, attention)
        if wanted is not None:
            rows = (self.shape.embd, self.outputs)
            mixed, hidden = self.graph.op(rows, mixed, wanted), self.graph.op(rows, hidden, wanted)
        if layer.has("post_attention_norm.weight") and self._norms_after(layer):
            mixed = self.graph.norm(mixed)
        middle = self.graph.add(mixed, hidden)
        if bert:
            middle = self.graph.norm(middle, bias=True)
            return self.graph.norm(self.graph.add(feed(self.graph, self.shape, layer, middle), middle), bias=True)
        if not feeds(layer):
            return middle
        fed = feed(self.graph, self.shape, layer, self.graph.norm(middle))
        if layer.has("post_ffw_norm.weight"):
            fed = self.graph.norm(fed)
        return self.graph.add(fed, middle)

    def _norms_after(self, layer: Layer) -> bool:
        """Some give the norm before the feed-forward part the name of the one after attention."""
        return layer.has("ffn_norm.weight") or layer.has("post_ffw_norm.weight")

    def _mix(self, layer: Layer, state: Tensor, positions: Tensor, attention: _Attention) -> Tensor:
        """What lets tokens see each other."""
        if self.shape.mla_rank and layer.has("attn_kv_a_mqa.weight"):
            return self._latent(layer, state, positions, attention)
        mixed = recur(self.graph, self.shape, layer, state, slots=self.run.slots) if layer.recurrent else None
        if layer.heads and (layer.attends or not layer.recurrent):
            attended = self._attend(layer, state, positions, attention)
            mixed = attended if mixed is None else self.graph.add(attended, mixed)
        return state if mixed is None else mixed

    # -- attention ---------------------------------------------------------------------------------------------------

    def _attention(self, *, windowed: bool) -> _Attention:
        shape, run, graph = self.shape, self.run, self.graph
        cells = window_cells(shape, run) if windowed else run.cells(shape.train_ctx)[0]
        streams = self.streams
        if not shape.caches:
            cells, streams = self.tokens, 1
        mask = graph.input(cells, self.tokens // streams, 1, streams, width=F16 if run.flash else F32)
        widest = max((layer.kv_heads * layer.head_v for layer in shape.layers), default=0)
        value_rows = self.tokens * (1 if run.flash else widest)
        first = shape.layers[0]
        return _Attention(
            cells,
            mask,
            graph.input(self.tokens, width=I64),
            graph.input(value_rows, width=I64),
            self._turn(run.type_k, first.head_k, largest=True),
            self._turn(run.type_v, first.head_v, largest=False),
        )

    def _turn(self, kind: str, head: int, *, largest: bool) -> Tensor | None:
        """The rotation before quantisation (`llama_kv_cache`, `attn_rot_k` and `attn_rot_v`)."""
        if not self.shape.caches or CACHE_TYPES[kind][1] == 1 or not head or head % _ROTATED:
            return None
        size = _ROTATED
        while largest and head % (2 * size) == 0:
            size *= 2
        return self.graph.input(size, size)

    def _attend(self, layer: Layer, state: Tensor, positions: Tensor, attention: _Attention) -> Tensor:
        graph, shape = self.graph, self.shape
        query, key, value = self._qkv(layer, state)
        gate = None
        if layer.width("attn_q.weight") == 2 * layer.heads * layer.head_k:  # half of it is a gate on the result
            gate = graph.op((layer.heads * layer.head_k, self.tokens), query)
        query, key, value = self._turned(layer, (query, key, value), positions, attention)
        windows = any(other.windowed for other in shape.layers)
        for tensor in (query, key, value) if windows or not shape.caches else (query, value, key):
            graph.expand(tensor)
        if shape.caches:
            key = self._cache(key, attention.key_rows) if layer.attends else graph.external()
            value = self._cache(value, attention.value_rows) if layer.attends else graph.external()
        attended = self._scores(layer, query, key, value, attention)
        if gate is not None:
            gate = graph.op(gate.shape, gate, in_place=True)
            attended = graph.op(gate.shape, attended, gate, in_place=True)
        if attention.value_turn is not None:
            attended = self._rotate(attended, attention.value_turn)
        return graph.biased(graph.matrix(attended, shape.embd), layer.has("attn_output.bias"))

    def _turned(
        self, layer: Layer, parts: tuple[Tensor, Tensor, Tensor], positions: Tensor, attention: _Attention
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value with their norms, positions and scales, rotated for a quantised cache."""
        graph, architecture = self.graph, self.shape.architecture
        query, key, value = parts
        if layer.has("attn_q_norm.weight"):
            query, key = graph.norm(query), graph.norm(key)
        if architecture != "bert":
            query = graph.op(query.shape, query, positions, in_place=True)
            key = graph.op(key.shape, key, positions, in_place=True)
        if architecture in ("gemma", "gemma2", "gemma3"):
            query = graph.op(query.shape, query, in_place=True)
        if attention.key_turn is not None:
            query, key = self._rotate(query, attention.key_turn), self._rotate(key, attention.key_turn)
        if attention.value_turn is not None:
            value = self._rotate(value, attention.value_turn)
        return query, key, value

    def _qkv(self, layer: Layer, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        graph, tokens = self.graph, self.tokens
        shapes = [(layer.head_k, layer.heads), (layer.head_k, layer.kv_heads), (layer.head_v, layer.kv_heads)]
        if layer.has("attn_qkv.weight"):
            fused = self.graph.matrix(state, layer.width("attn_qkv.weight"))
            fused = self.graph.biased(fused, layer.has("attn_qkv.bias"))
            query, key, value = (graph.view(fused, size, heads, tokens) for size, heads in shapes)
            return query, key, value
        parts = []
        for name, (size, heads) in zip("qkv", shapes, strict=True):
            part = self.graph.matrix(state, layer.width(f"attn_{name}.weight") or size * heads)
            part = self.graph.biased(part, layer.has(f"attn_{name}.bias"))
            parts.append(graph.view(part, size, heads, tokens))
        return parts[0], parts[1], parts[2]

    def _rotate(self, tensor: Tensor, turn: Tensor) -> Tensor:
        flat = self.graph.view(tensor, turn.shape[0], -1)
        turned = Tensor(flat.shape, F32 * _elements(tensor), (turn, flat))
        return self.graph.view(turned, *tensor.shape)

    def _cache(self, tensor: Tensor, rows: Tensor) -> Tensor:
        """Write into the cache; what is read afterwards is the cache itself."""
        cache = self.graph.external()
        self.graph.expand(self.graph.store(cache, self.graph.view(tensor, -1, self.tokens), rows))
        return cache

    def _scores(self, layer: Layer, query: Tensor, key: Tensor, value: Tensor, attention: _Attention) -> Tensor:
        """`build_attn_mha` up to the reshaped result."""
        graph, tokens, heads, head_v = self.graph, self.tokens, layer.heads, layer.head_v
        query = graph.view(query, *query.shape)
        if self.run.flash:
            if not self.shape.caches:  # flash attention wants f16, and there is no cache that has it
                key, value = (
                    Tensor(part.shape, F16 * _elements(part), (graph.view(part, *part.shape),)) for part in (key, value)
                )
            attended = graph.op((head_v, heads, tokens), query, key, value, attention.mask)
            return graph.expand(graph.view(attended, head_v * heads, tokens))
        streams = attention.mask.shape[3]
        scores = graph.op((attention.cells, tokens // streams, heads, streams), key, query)
        if self.shape.soft_cap:
            for _ in range(3):
                scores = graph.op(scores.shape, scores, in_place=True)
        scores = graph.op(scores.shape, scores, attention.mask, in_place=True)
        if not self.shape.caches:
            value = graph.op(value.shape, graph.view(value, *value.shape))
        weighted = graph.op((head_v, tokens // streams, heads, streams), value, scores)
        turned = graph.view(weighted, head_v, heads, tokens)
        return graph.expand(graph.op((head_v * heads, tokens), turned))

    def _latent(self, layer: Layer, state: Tensor, positions: Tensor, attention: _Attention) -> Tensor:
        """Multi-head latent attention with the key matrices absorbed (`deepseek2.cpp`)."""
        graph, tokens, shape = self.graph, self.tokens, self.shape
        rank, rope = shape.mla_rank, shape.mla_rope
        if layer.has("attn_q_a.weight"):
            state_q = self.graph.norm(self.graph.matrix(state, layer.width("attn_q_a.weight")))
            query = self.graph.matrix(state_q, layer.width("attn_q_b.weight"))
        else:
            query = self.graph.matrix(state, layer.width("attn_q.weight"))
        packed = self.graph.matrix(state, rank + rope)
        turned_key = graph.op((rope, 1, tokens), graph.view(packed, rope, 1, tokens), positions)
        compressed = self.graph.norm(graph.view(packed, rank, tokens))
        turned = graph.op((rope, layer.heads, tokens), graph.view(query, rope, layer.heads, tokens),
                          positions)  # fmt: skip
        plain = graph.view(query, max(0, query.shape[0] // max(1, layer.heads) - rope), tokens, layer.heads)
        absorbed = graph.op((rank, tokens, layer.heads), graph.external(), plain)
        query = graph.op((rank + rope, layer.heads, tokens), graph.view(absorbed, -1), turned)
        value = graph.view(compressed, rank, 1, tokens)
        key = graph.op((rank + rope, 1, tokens), value, turned_key)
        for tensor in (query, value, key):
            graph.expand(tensor)
        cache = self._cache(key, attention.key_rows)
        attended = self._unpack(layer, query, cache, attention)
        return self.graph.matrix(attended, shape.embd)

    def _unpack(self, layer: Layer, query: Tensor, cache: Tensor, attention: _Attention) -> Tensor:
        graph, tokens, heads = self.graph, self.tokens, layer.heads
        rank, width = self.shape.mla_rank, self.shape.mla_value
        query = graph.view(query, *query.shape)
        if self.run.flash:
            attended = graph.op((rank, heads, tokens), query, cache, attention.mask)
        else:
            streams = attention.mask.shape[3]
            scores = graph.op((attention.cells, tokens // streams, heads, streams), cache, query)
            scores = graph.op(scores.shape, scores, attention.mask, in_place=True)
            turned = graph.op((attention.cells, rank, 1, streams), cache)
            attended = graph.op((rank, tokens // streams, heads, streams), turned, scores)
        unpacked = graph.op((width, tokens, heads), graph.external(), graph.view(attended, -1))
        flat = graph.op((width * heads, tokens), graph.view(unpacked, -1))
        return graph.expand(flat)


def _elements(tensor: Tensor) -> int:
    product = 1
    for length in tensor.shape:
        product *= length
    return product
