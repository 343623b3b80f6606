"""Which smaller pieces byte-pair encoding builds a piece from.

Byte-pair encoding starts from characters and joins the neighbours of the best rank, until no pair
of neighbours may be joined. What happens inside a token does not depend on its neighbours: no join
crosses its ends, and joins inside it come in the order of their ranks. So the joins that build a
token in any text are those that build it alone, and a vocabulary that keeps the pieces of these
joins splits every text of kept tokens as before: at each step the best pair is the same one, for it
remains, and no other pair is new.

Source: Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words with Subword Units",
ACL 2016; SentencePiece ranks pairs by the score of the piece that they give.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import TypeAlias

Pair: TypeAlias = tuple[str, str]


@dataclass(frozen=True)
class Merges:
    """The table of merges of a vocabulary.

    Attributes:
        ranks: rank of every pair (the lowest is joined first), and the piece that it gives.
        prefix: of pieces that continue a word, as in ``##``.
        suffix: of pieces that end a word, as in ``</w>``.
    """

    ranks: Mapping[Pair, tuple[float, str]] = field(repr=False)
    prefix: str = ""
    suffix: str = ""

    def joined(self, left: str, right: str) -> tuple[float, str] | None:
        """Rank and piece of a pair; None where it may not be joined."""
        return self.ranks.get((left, right))

    def symbols(self, piece: str) -> list[str]:
        """The pieces of one character that a piece is built from."""
        continues = bool(self.prefix) and piece.startswith(self.prefix) and piece != self.prefix
        ends = bool(self.suffix) and piece.endswith(self.suffix) and piece != self.suffix
        stem = piece[len(self.prefix) if continues else 0 : -len(self.suffix) if ends else None]
        out = [self.prefix + char if i or continues else char for i, char in enumerate(stem)]
        if ends and out:
            out[-1] += self.suffix
        return out or [piece]


@dataclass(frozen=True)
class Scores:
    """The scores of a SentencePiece model of the kind bpe: a pair that gives a piece may be joined.

    Attributes:
        scores: by piece; the highest is joined first.
    """

    scores: Mapping[str, float] = field(repr=False)

    def joined(self, left: str, right: str) -> tuple[float, str] | None:
        """Rank and piece of a pair; None where it may not be joined."""
        piece = left + right
        score = self.scores.get(piece)
        return None if score is None else (-score, piece)

    def symbols(self, piece: str) -> list[str]:
        """The characters of a piece."""
        return list(piece)


Rule: TypeAlias = Merges | Scores


def derive(rule: Rule, piece: str) -> set[str] | None:
    """The pieces that arise while a piece is built, itself and its characters included.

    Returns:
        None where joining its characters does not end in the piece.

    Example:
        >>> rule = Merges({("t", "h"): (0, "th"), ("th", "e"): (1, "the"), ("h", "e"): (2, "he")})
        >>> sorted(derive(rule, "the"))
        ['e', 'h', 't', 'th', 'the']
    """
    symbols: list[str | None] = list(rule.symbols(piece))
    count = len(symbols)
    before, after = list(range(-1, count - 1)), list(range(1, count + 1))
    pieces = {symbol for symbol in symbols if symbol is not None}

    def candidate(left: int, right: int) -> tuple[float, int, int, str, str, str] | None:
        if left < 0 or right >= count:
            return None
        a, b = symbols[left], symbols[right]
        assert a is not None
        assert b is not None
        pair = rule.joined(a, b)
        return None if pair is None else (pair[0], left, right, a, b, pair[1])

    queue = [each for i in range(count - 1) if (each := candidate(i, i + 1))]
    heapify(queue)
    while queue:
        _, left, right, a, b, result = heappop(queue)
        if symbols[left] != a or symbols[right] != b or after[left] != right:
            continue
        symbols[left], symbols[right] = result, None
        after[left] = after[right]
        if after[left] < count:
            before[after[left]] = left
        pieces.add(result)
        for each in (candidate(before[left], left), candidate(left, after[left])):
            if each:
                heappush(queue, each)
    return pieces if symbols[0] == piece and after[0] >= count else None


def close(rule: Rule, pieces: Iterable[str], known: Collection[str]) -> set[str]:
    """Pieces and all that they are built from, the smallest set that keeps the split of texts.

    Args:
        rule: how pieces are joined.
        pieces: to keep.
        known: all pieces of the vocabulary; others are left out of the result.

    Returns:
        The pieces. For one that its characters do not lead to, those of every merge that gives it.
    """
    out: set[str] = set()
    unreached: list[str] = []
    for piece in pieces:
        derivation = derive(rule, piece)
        out |= derivation or {piece}
        if derivation is None:
            unreached.append(piece)
    if unreached and isinstance(rule, Merges):
        sources: defaultdict[str, list[str]] = defaultdict(list)
        for pair, (_, result) in rule.ranks.items():
            sources[result] += pair
        visited = set(unreached)
        while unreached:
            for source in sources.get(unreached.pop(), ()):
                if source not in visited:
                    visited.add(source)
                    unreached.append(source)
        out |= visited
    return {piece for piece in out if piece in known}
