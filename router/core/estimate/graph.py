"""How much memory a computation takes: ggml's graph allocator played through on sizes alone.

llama.cpp reserves one buffer per backend for everything that is computed between the weights and the logits. Its size
is not a sum: tensors take the place of those that are not needed any more. So the graph is built here as llama.cpp
builds it and laid out by the same rules; no formula of the peak gets closer than some 25 %.

Source: llama.cpp b11434, `ggml/src/ggml-alloc.c` (`ggml_dyn_tallocr_*`, `ggml_gallocr_alloc_graph_impl`) for the
placement, `ggml/src/ggml.c` (`ggml_visit_parents_graph`) for the order of the nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

ALIGNMENT = 32  # ggml's TENSOR_ALIGNMENT; CUDA's 128 makes no difference that could be seen
_ENDLESS = 1 << 62
F32, F16, I32, I64 = 4, 2, 4, 8


@dataclass(slots=True, eq=False)
class Tensor:
    """One node of a graph.

    Attributes:
        shape: elements per dimension.
        bytes: what it takes; 0 for a view.
        sources: what it is computed from.
        of: the tensor whose memory it looks at, if it is a view.
        in_place: it may take the place of a source that nobody else needs.
        leaf: it is there before the computation: an input, a weight or a cache.
        external: its memory is not part of the computation's buffer (weights, caches).
        kept: it is a result, and its place is never given away.
    """

    shape: tuple[int, ...]
    bytes: int
    sources: tuple[Tensor, ...] = ()
    of: Tensor | None = None
    in_place: bool = False
    leaf: bool = False
    external: bool = False
    kept: bool = False
    children: int = 0
    views: int = 0
    offset: int = -1
    placed: bool = False


class Arena:
    """A buffer of endless size that hands out and takes back ranges; `peak` is how far it was ever used."""

    def __init__(self) -> None:
        self.peak = 0
        self._free = [[0, _ENDLESS]]  # [offset, size], ordered, never touching; the last one is the endless rest

    def take(self, size: int) -> int:
        """The offset of the tightest hole, else of the end."""
        size = _aligned(size)
        holes = [block for block in self._free[:-1] if block[1] >= size]
        # Of equal holes the last one, as ggml's `<=` has it.
        block = min(reversed(holes), key=lambda hole: hole[1]) if holes else self._free[-1]
        offset = block[0]
        block[0] += size
        block[1] -= size
        if not block[1]:
            self._free.remove(block)
        self.peak = max(self.peak, offset + size)
        return offset

    def give_back(self, offset: int, size: int) -> None:
        size = _aligned(size)
        if not size:
            return
        place = sum(block[0] < offset for block in self._free)
        self._free.insert(place, [offset, size])
        for left in (place, place - 1):
            if 0 <= left < len(self._free) - 1 and sum(self._free[left]) == self._free[left + 1][0]:
                self._free[left][1] += self._free.pop(left + 1)[1]


@dataclass(slots=True)
class Graph:
    """A computation in the making. Nodes take part once they, or what is computed from them, are expanded."""

    leaves: list[Tensor] = field(default_factory=list)
    nodes: list[Tensor] = field(default_factory=list)
    _seen: set[int] = field(default_factory=set)

    def external(self, *shape: int) -> Tensor:
        """A weight or a cache."""
        return Tensor(shape, 0, leaf=True, external=True)

    def input(self, *shape: int, width: int = F32) -> Tensor:
        return Tensor(shape, prod(shape) * width, leaf=True)

    def op(self, shape: Sequence[int], *sources: Tensor, width: int = F32, in_place: bool = False) -> Tensor:
        return Tensor(tuple(shape), prod(shape) * width, sources, in_place=in_place)

    def view(self, source: Tensor, *shape: int) -> Tensor:
        """A reshape, a part or another order of a tensor."""
        root = source if source.of is None else source.of
        return Tensor(shape, 0, (source,), of=root)

    def store(self, cache: Tensor, *sources: Tensor) -> Tensor:
        """Write into a cache: the result is a view of it."""
        return Tensor(cache.shape, 0, (*sources, cache), of=cache)

    def matrix(self, source: Tensor, rows: int) -> Tensor:
        """A matrix of weights times the source."""
        return self.op((rows, source.shape[1]), self.external(), source)

    def add(self, left: Tensor, right: Tensor) -> Tensor:
        return self.op(left.shape, left, right, in_place=True)

    def biased(self, tensor: Tensor, biased: bool = True) -> Tensor:
        return self.op(tensor.shape, tensor, self.external(), in_place=True) if biased else tensor

    def norm(self, tensor: Tensor, *, bias: bool = False) -> Tensor:
        """RMS norm and its weight; with a bias, the layer norm of encoders, which is never done in place."""
        normed = self.op(tensor.shape, tensor, in_place=not bias)
        normed = self.op(normed.shape, normed, self.external(), in_place=True)
        return self.biased(normed, bias)

    def expand(self, tensor: Tensor) -> Tensor:
        """Add a tensor and all that it needs, sources first, from left to right."""
        if id(tensor) not in self._seen:
            self._seen.add(id(tensor))
            for source in tensor.sources:
                self.expand(source)
            (self.leaves if tensor.leaf else self.nodes).append(tensor)
        return tensor

    def inputs(self) -> int:
        """Bytes of all inputs."""
        return sum(leaf.bytes for leaf in self.leaves if not leaf.external)

    def reserve(self) -> int:
        """Bytes of the buffer in which the whole graph can be computed."""
        arena = Arena()
        for leaf in self.leaves:
            _place(leaf, arena)
        for node in self.nodes:
            if node.of is not None:
                node.of.views += 1
            for source in node.sources:
                source.children += 1
        for node in self.nodes:
            _place(node, arena)
            for source in node.sources:
                source.children -= 1
                _release(source, arena)
        return arena.peak


def _place(tensor: Tensor, arena: Arena) -> None:
    if tensor.placed or tensor.external or tensor.of is not None:
        return
    tensor.placed = True
    if tensor.in_place:
        for source in tensor.sources:
            if _heir(tensor, source):
                tensor.offset = source.offset
                source.placed = False
                return
    tensor.offset = arena.take(tensor.bytes)


def _heir(tensor: Tensor, source: Tensor) -> bool:
    """Whether a tensor may take the place of this source of it. Views are never taken over."""
    last_use = source.children == 1 and not source.views
    return source.placed and not source.kept and last_use and tensor.shape == source.shape


def _release(tensor: Tensor, arena: Arena) -> None:
    """Give back the place of a tensor that nobody needs any more, or of the one that it was a view of."""
    if tensor.children or tensor.views:
        return
    owner = tensor
    if tensor.of is not None:
        owner = tensor.of
        owner.views -= 1
        if owner.views or owner.children:
            return
    if owner.placed and not owner.kept:
        arena.give_back(owner.offset, owner.bytes)
        owner.placed = False


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
