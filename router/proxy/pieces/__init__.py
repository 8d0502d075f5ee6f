"""A request about many things, asked in pieces: an array of inputs to embed, of documents to rank.

llama-server puts every element of such an array into its queue at once, and whoever comes next waits for all of them
(28.9 s behind 600 inputs). So an array goes to it sixteen elements at a time, each time in a slot of its own, and
between two pieces others have their turn. One piece at a time: llama-server spreads its elements over all its slots by
itself. Four pieces at once were 5 % faster and held others up eight times as long (4 slots, CPU).

The pieces' answers are put together into the one that llama-server itself would have given, down to the order of its
keys and the digits of its numbers; what may differ are the numbers' last digits, since llama.cpp computes the elements
of a batch together, and the batches are others.
"""

from router.proxy.pieces.cutting import Piece, Pieces, cut
from router.proxy.pieces.joining import Joint, Unjoinable
from router.proxy.pieces.part import Part

__all__ = ["Joint", "Part", "Piece", "Pieces", "Unjoinable", "cut"]
