"""Weights rounded to 4 bits and back, by any range of rows, bit for bit as bitsandbytes does it."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from adapters import one_thread
from qlora_cases import TRIPS, told, trip
from quantized_files import digest

from exporter.run.values import FourBit
from exporter.source import nf4
from exporter.source.nf4 import RoundTrip, dynamic, quantized, table_of

__all__ = ["one_thread"]


@pytest.mark.parametrize("name", TRIPS)
def test_as_bitsandbytes_rounds(name: str) -> None:
    case = json.loads(told("round_trip")["cases"])[name]
    view = trip(TRIPS[name], case["kind"], nested=case["nested"])
    rows = TRIPS[name].shape[0]
    whole = view.read("x", 0, rows)
    assert whole.dtype == torch.float32
    assert whole[-1, :8].tolist() == case["first"]
    assert digest(whole) == case["sha256"]
    fresh = trip(TRIPS[name], case["kind"], nested=case["nested"])
    for start, stop in ((rows - 1, rows), (0, 1), (1, rows), (rows // 3, rows // 2 + 1), (3, rows + 9), (5, 5)):
        assert fresh.read("x", start, stop).equal(whole[start:stop]), (start, stop)


def test_scales_are_made_again_where_none_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, other = TRIPS["bf16"], TRIPS["bf16"].flip(0)
    whole, flipped = trip(weight).read("x", 0, 96), trip(other).read("x", 0, 96)
    read: Any = lambda name, start, stop: {"x": weight, "y": other}[name][start:stop].float()  # noqa: E731
    base: Any = SimpleNamespace(shapes=lambda: dict.fromkeys("xy", (96, 200)), read=read, left_out=())
    monkeypatch.setattr(nf4, "KEPT", 1)
    monkeypatch.setattr(nf4, "SLICE", 1)  # a pre-pass in slices of 64 rows
    monkeypatch.setattr(nf4, "PIECE", 1)
    view = RoundTrip(base, {"x", "y"}, FourBit())
    for rows in ((0, 40), (40, 96)):
        assert view.read("x", *rows).equal(whole[slice(*rows)])
        assert view.read("y", *rows).equal(flipped[slice(*rows)])


def test_what_is_no_linear_weight_is_as_stored() -> None:
    base: Any = SimpleNamespace(shapes=lambda: {"n": (4,)}, read=lambda *_: torch.arange(4.0), left_out=("a part",))
    view = RoundTrip(base, {"x"}, FourBit())
    assert view.read("n", 0, 4).tolist() == [0, 1, 2, 3]
    assert view.left_out == ("a part",)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_cells_find_what_a_search_finds(kind: str) -> None:
    table = table_of(kind)
    edges = torch.cat((table.middles, torch.arange(-nf4.CELLS, nf4.CELLS + 1) / nf4.CELLS))
    near = [edges]
    for towards in (2.0, -2.0):  # the floats next to each place where the answer changes
        step = edges
        for _ in range(20):
            step = torch.nextafter(step, torch.tensor(towards))
            near.append(step)
    numbers = torch.cat((*near, torch.linspace(-1, 1, 100_001))).clamp(-1, 1)
    assert table.nearest(numbers).equal(torch.bucketize(numbers, table.middles, out_int32=True))


def test_scales_of_many_blocks_do_not_depend_on_threads() -> None:
    maxima = torch.rand(200_000, generator=torch.Generator().manual_seed(3))
    torch.set_num_threads(4)
    four = nf4._nested(maxima)
    torch.set_num_threads(1)
    one = nf4._nested(maxima)
    assert one.mean.equal(maxima.mean())
    assert one.mean.equal(four.mean)
    assert one.codes.equal(four.codes)


def test_not_finite_stays_not_finite() -> None:
    for number in (torch.nan, torch.inf):
        weight = TRIPS["f32_aligned"].clone()
        weight[9, 9] = number
        assert not trip(weight, nested=False).read("x", 9, 10)[0, :64].isfinite().any()
        assert not trip(weight).read("x", 0, 64).isfinite().any()


def test_dynamic_type() -> None:
    values = dynamic().values
    assert values.shape == (256,)
    assert values.diff().min() > 0
    codes, largest = quantized(values[:128].clone(), dynamic(), 256)
    assert codes.dtype == torch.int32
    assert largest.tolist() == [-float(values[0])]
