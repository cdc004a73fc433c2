"""The words a family's table is written in: short functions that make its values."""

from collections.abc import Mapping
from dataclasses import replace

from converters.spec.values import Field, Order, Prefix, Row, View


def rope_pairs(source: str, *, heads: str) -> Row:
    """A weight whose rows go, in each head, from Hugging Face's halves to llama.cpp's pairs."""
    return Row(source, heads=heads)


def plus_one(source: str) -> Row:
    """A norm that Hugging Face stores less one."""
    return Row(source, add=1.0)


def optional(row: str | Row) -> Row:
    """A row that a model has in all layers or in none."""
    return replace(row, optional=True) if isinstance(row, Row) else Row(row, optional=True)


def flagged(row: str | Row, *, by: str) -> Row:
    """A row that a model has in all layers where a config field is true, and in none where it is not."""
    return replace(row if isinstance(row, Row) else Row(row), flag=by)


def flagged_rows(table: Mapping[str, str | Row], *, by: str) -> dict[str, str | Row]:
    """Rows that a model has where a config field is true, and that it has not where it is not."""
    return {name: flagged(row, by=by) for name, row in table.items()}


def given(name: str) -> Field:
    """A config field that is written only where the config gives it."""
    return Field(name, optional=True)


def part(stored: str, k: int, *, of: int, width: str | None = None) -> View:
    """Expert ``{e}``'s k-th of so many equal parts of the rows of a fused tensor (experts, of * rows, columns).

    With ``width``, ``rows`` or ``columns``, the last two axes may be exchanged: those are as many as the embedding's
    columns, which tells.
    """
    return View(stored, part=k, of=of, width=width)


def each(stored: str, *, width: str | None = None) -> View:
    """Expert ``{e}``'s matrix of a fused tensor (experts, rows, columns); ``width`` as for ``part``."""
    return View(stored, width=width)


def strip(stored: str) -> Prefix:
    """A beginning of stored names that our spelling has not."""
    return Prefix(stored)


def transposed(stored: str) -> View:
    """A plain matrix that is stored turned over, (columns, rows)."""
    return View(stored, experts=False, turned=True)


def each_transposed(stored: str) -> View:
    """Expert ``{e}``'s matrix of a fused tensor (experts, columns, rows)."""
    return View(stored, turned=True)


def part_transposed(stored: str, k: int, *, of: int) -> View:
    """Expert ``{e}``'s k-th of so many equal parts of the last axis of a fused tensor (experts, columns, of * rows)."""
    return View(stored, part=k, of=of, turned=True)


def interleaved(stored: str, k: int, *, of: int) -> View:
    """Expert ``{e}``'s every so-manyth number, from the k-th on, of the last axis of (experts, columns, of * rows)."""
    return View(stored, part=k, of=of, turned=True, mixed=True)


def at(row: str | Row, *, layers: str) -> Row:
    """A row that only those layers have for which a config field holds true."""
    return replace(row if isinstance(row, Row) else Row(row), layers=layers)


def among(source: str, *, layers: str) -> Row:
    """A weight that only the layers have whose numbers a config field lists, and that counts these alone."""
    return Row(source, among=layers)


def some_layers(table: Mapping[str, str | Row], *, layers: str) -> dict[str, str | Row]:
    """Rows that only those layers have for which a config field holds true."""
    return {name: at(row, layers=layers) for name, row in table.items()}


def unread(row: str | Row, *, layers: str, stands_in: bool = False) -> Row:
    """A row that the graph does not read in those layers for which a config field holds true, where it may lack.

    Where llama.cpp loads it nevertheless, the first layer's ``stands_in``.
    """
    return replace(row if isinstance(row, Row) else Row(row), unread=layers, stands_in=stands_in)


def rows(source: str, order: Order, *, heads: str | None = None) -> Row:
    """Some of a weight's rows, in an order; then from halves to pairs where ``heads`` is given."""
    return Row(source, rows=order, heads=heads)


def columns(source: str, order: Order) -> Row:
    """A weight with some of its columns, in an order."""
    return Row(source, columns=order)


def flat(row: str | Row) -> Row:
    """A weight of more than two axes, of which all but the first are joined to one."""
    return replace(row if isinstance(row, Row) else Row(row), flat=True)


def shaped(row: str | Row, *axes: str | int) -> Row:
    """A weight as rows, which the file says to be of other axes: numbers, or config fields."""
    return replace(row if isinstance(row, Row) else Row(row), axes=axes)


def kernel(source: str, *, order: Order | None = None) -> Row:
    """The kernel of a convolution over an image, (rows, channels, height, width), or such columns of a larger one."""
    return shaped(Row(source, flat=True, columns=order), "hidden_size", "num_channels", "patch_size", "patch_size")


def minus_exp(row: str | Row) -> Row:
    """A weight that stores the logarithm of what is taken away: of each number x it becomes -exp(x)."""
    return replace(row if isinstance(row, Row) else Row(row), minus_exp=True)


def must_be_zero(source: str) -> Row:
    """A weight that llama.cpp's graph has no place for, so that only one of zeros alone is accepted; in some layers."""
    return Row(source, optional=True, zero=True)


def unit_rows(source: str, *, by: str) -> Row:
    """A weight whose rows are each divided by their length where a config field is true."""
    return Row(source, unit=by)


def stacked(source: str, *, count: str) -> Row:
    """So many weights, ``{e}`` from 0 on, one above another."""
    return Row(source, count=count)
