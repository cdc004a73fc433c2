"""Slices cover every row once, in whole heads; and what is done to their rows."""

import numpy as np
import pytest

from exporter.plan import Job, Steps
from exporter.slices import FEWEST_ROWS, halves_to_pairs, slices

SHAPES = [(1,), (700,), (1, 8), (63, 8), (64, 8), (65, 8), (127, 8), (128, 8), (1000, 7), (32000, 40), (40, 9_000_000)]


def job(shape: tuple[int, ...], heads: int = 0) -> Job:
    """A job of so many parts as its experts are."""
    parts = shape[0] if len(shape) == 3 else 1
    return Job("t", shape, tuple(f"w{e}" for e in range(parts)), ("F32",), (0,), Steps(heads=heads))


@pytest.mark.parametrize("size", [1, 4096, 1 << 21])
def test_slices_cover_every_row_once(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.slices.SLICE", size)
    jobs = [job(shape) for shape in SHAPES] + [job((3, *shape)) for shape in SHAPES if len(shape) == 2]
    for one in jobs:
        rows = one.shape[-2] if len(one.shape) > 1 else one.shape[0]
        pieces = list(slices([one]))
        for part in range(len(one.sources)):
            ends = [(piece.start, piece.stop) for piece in pieces if piece.part == part]
            assert [row for start, stop in ends for row in range(start, stop)] == list(range(rows))
            assert all(stop - start >= min(FEWEST_ROWS, rows) for start, stop in ends)
        assert {piece.part for piece in pieces} == set(range(len(one.sources)))


@pytest.mark.parametrize(("rows", "heads"), [(64, 4), (128, 1), (288, 6), (576, 9), (960, 5), (4096, 32), (1280, 10)])
def test_slices_hold_whole_heads(rows: int, heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.slices.SLICE", 1)
    pieces = list(slices([job((rows, 16), heads)]))
    assert all(piece.start % (rows // heads) == 0 == piece.stop % (rows // heads) for piece in pieces)
    assert pieces[-1].stop == rows
    assert all(piece.stop - piece.start >= min(FEWEST_ROWS, rows) for piece in pieces)


@pytest.mark.parametrize(("heads", "head", "columns"), [(1, 2, 1), (3, 8, 5), (4, 64, 2), (2, 6, 3)])
def test_halves_become_pairs(heads: int, head: int, columns: int) -> None:
    rows = np.random.default_rng(0).standard_normal((heads * head, columns)).astype(np.float32)
    found = halves_to_pairs(rows, head)
    for h in range(heads):
        for i in range(head // 2):
            for half in range(2):  # row 2 i + half of a head is row i of that half
                assert np.array_equal(found[h * head + 2 * i + half], rows[h * head + half * head // 2 + i])
    assert np.array_equal(halves_to_pairs(rows[:, 0], head), found[:, 0])
