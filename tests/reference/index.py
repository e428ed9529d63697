"""The index family in plain Python integers, written from the definition, one row at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from math import floor
from typing import Any

C32 = (0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35, 0x27D4EB2F)
C64 = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93)


def philox4x32_10(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """Salmon et al., SC 2011: ten rounds of two 32 x 32 -> 64-bit products, the key bumped by Weyl constants."""
    c, (k0, k1) = list(counter), key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [p1 >> 32 ^ c[1] ^ k0, p1 % 2**32, p0 >> 32 ^ c[3] ^ k1, p0 % 2**32]
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c


def words(seed: int, epoch: int, stream: int) -> Iterator[int]:
    block = 0
    while True:
        yield from philox4x32_10((block, stream, epoch, 0), (seed % 2**32, seed >> 32))
        block += 1


class Permutation:
    def __init__(self, n: int, seed: int, epoch: int = 0, stream: int = 0) -> None:
        self.n = n
        draw = words(seed, epoch, stream)
        self.table: list[int] | None = None
        if n <= 1024:
            self.table = list(range(n))
            for i in range(n - 1, 0, -1):
                word = next(draw)
                while word >= 2**32 - 2**32 % (i + 1):
                    word = next(draw)
                j = word % (i + 1)
                self.table[i], self.table[j] = self.table[j], self.table[i]
            return
        self.b = (n - 1).bit_length()
        self.s = (self.b + 1) // 2
        rounds = 12 if self.b <= 16 else 8
        if n <= 2**32:
            self.C = [C32[r % 4] for r in range(rounds)]
            self.K = [next(draw) * c for c in self.C]
        else:
            self.C = [C64[r % 4] for r in range(rounds)]
            self.K = [(next(draw) + (next(draw) << 32)) * c for c in self.C]

    def __getitem__(self, i: int) -> int:
        if self.table is not None:
            return self.table[i]
        x = i
        while True:
            for c, k in zip(self.C, self.K):
                x = (x * c + k) % 2**self.b
                x ^= x >> self.s
            if x < self.n:
                return x

    def walk_length(self, i: int) -> int:
        """How many times the rounds run for position i."""
        x, length = i, 0
        while length == 0 or x >= self.n:
            for c, k in zip(self.C, self.K):
                x = (x * c + k) % 2**self.b
                x ^= x >> self.s
            length += 1
        return length


def kfold_ids(n: int, k: int, seed: int, repeat: int) -> list[int]:
    p = Permutation(n, seed, epoch=repeat, stream=1)
    q, r = divmod(n, k)
    folds = []
    for i in range(n):
        j = p[i]
        folds.append(j // (q + 1) if j < r * (q + 1) else r + (j - r * (q + 1)) // q)
    return folds


def _classes(y: Sequence[Any], seed: int, repeat: int) -> dict[Any, tuple[int, Permutation]]:
    """Of each class: the number of rows in earlier classes, and its permutation."""
    counts = Counter(y)
    classes, start = {}, 0
    for c, label in enumerate(sorted(counts)):
        classes[label] = start, Permutation(counts[label], seed, epoch=repeat, stream=2 + c)
        start += counts[label]
    return classes


def stratified_ids(y: Sequence[Any], k: int, seed: int, repeat: int) -> list[int]:
    classes = _classes(y, seed, repeat)
    seen: Counter[Any] = Counter()
    folds = []
    for label in y:
        start, p = classes[label]
        folds.append((start + p[seen[label]]) % k)
        seen[label] += 1
    return folds


def group_ids(groups: Sequence[Any], k: int, seed: int | None) -> list[int]:
    """Greedy by size, before any exchange; `seed` None: equal sizes by label."""
    size = Counter(groups)
    labels = sorted(size)
    p = list(range(len(labels))) if seed is None else [Permutation(len(labels), seed, stream=1)[i] for i in range(len(labels))]
    key = dict(zip(labels, p))
    order = sorted(labels, key=lambda g: (-size[g], key[g]))
    fold: dict[Any, int] = {}
    rows = [0] * k
    for g in order:
        fold[g] = min(range(k), key=lambda f: (rows[f], f))
        rows[fold[g]] += size[g]
    return [fold[g] for g in groups]


def holdout_ids(n: int, shares: Sequence[float], seed: int, y: Sequence[Any] | None = None) -> list[int]:
    """Ids of a hold-out into (train, test) or (train, validation, test)."""
    held = [floor(share * n + 0.5) for share in shares[1:]]
    train, parts = n - sum(held), len(shares)
    if y is None:
        p = Permutation(n, seed, stream=1)
        ends = [train, train + held[0], n][: parts - 1]
        return [sum(p[i] >= end for end in ends) for i in range(n)]
    classes = _classes(y, seed, 0)
    seen: Counter[Any] = Counter()
    ids = []
    for label in y:
        start, p = classes[label]
        place = start + p[seen[label]]
        seen[label] += 1
        tests = place * held[-1] // n
        if (place + 1) * held[-1] // n > tests:
            ids.append(parts - 1)
            continue
        place -= tests
        validations = held[0] if parts == 3 else 0
        rest = n - held[-1]
        ids.append(int((place + 1) * validations // rest > place * validations // rest))
    return ids


def roles(ids: Sequence[Sequence[int]], conditions: Sequence[Sequence[int]]) -> list[int]:
    """Role of every row under the conditions of one split: 0 skip, 1 train, 2 score."""
    out = []
    for i in range(len(ids[0])):
        verdicts = []
        for id_row, score_lo, score_hi, train_lo, train_hi in conditions:
            x = ids[id_row][i]
            scored = score_lo <= x < score_hi
            verdicts.append("score" if scored else "train" if train_lo <= x < train_hi else "skip")
        *earlier, last = verdicts
        out.append(({"score": 2, "train": 1, "skip": 0})[last] if all(v == "train" for v in earlier) else 0)
    return out
