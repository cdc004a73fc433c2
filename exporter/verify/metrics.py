"""How far a level's predictions are from the reference's, token by token, from the logits of both.

Passes over logits are in float32, sums over the vocabulary in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]  # rows (positions) x vocabulary
Values = npt.NDArray[np.float64]
Targets = npt.NDArray[np.intp]

_TOP = 5
_RUN = 512  # logits whose maximum is taken first, to look for the largest five in five such runs only


@dataclass(frozen=True, eq=False)
class Scores:
    """One value for each scored token, in arrays of one shape: (tokens,) or (chunks, tokens of a chunk).

    Attributes:
        nll_reference: -ln p(true token) in the reference, nats.
        nll: the same in the level.
        kld: KL divergence of the level from the reference, sum of p_ref ln(p_ref / p_level), nats.
        top1: 1 where both have the same likeliest token (of equal ones the first), else 0.
        top5: the share of the reference's five likeliest tokens that are among the level's five, in any order.
        dp: p(true token) in the level less that in the reference.
    """

    nll_reference: Values
    nll: Values
    kld: Values
    top1: Values
    top5: Values
    dp: Values

    @classmethod
    def empty(cls, chunks: int, tokens: int) -> Self:
        """Room for so many chunks."""
        return cls(*(np.full((chunks, tokens), np.nan) for _ in fields(cls)))

    def put(self, chunk: int, first: int, part: "Scores") -> None:
        """Lay the scores of some tokens of a chunk, from its scored token ``first`` on, into their places."""
        for field in fields(self):
            values = getattr(part, field.name)
            getattr(self, field.name)[chunk, first : first + len(values)] = values


def compare(reference: Logits, levels: Sequence[Logits], targets: Targets) -> tuple[Values, list[Scores]]:
    """The reference's -ln p(target) for each row, and each level's scores against it.

    All logits are finite, of the same shape, and may be overwritten. A level equal to the reference has a KLD of 0.
    """
    rows = np.arange(len(targets))
    highest = reference.max(axis=1, keepdims=True)
    weights = np.exp(reference - highest)
    total = weights.sum(axis=1, dtype=np.float64)
    normalizer = highest[:, 0] + np.log(total)
    nll = normalizer - reference[rows, targets]
    best, top = reference.argmax(axis=1), largest(reference)
    scores = []
    for logits in levels:
        level_normalizer = log_sum_exp(logits)
        level_nll = level_normalizer - logits[rows, targets]
        same, shared = logits.argmax(axis=1) == best, overlap(top, largest(logits))
        difference = np.subtract(reference, logits, out=logits)
        np.multiply(difference, weights, out=difference)
        kld = difference.sum(axis=1, dtype=np.float64) / total - (normalizer - level_normalizer)
        # No divergence is below 0 (Gibbs): what is, by some 1e-8, is rounding.
        np.maximum(kld, 0.0, out=kld)
        dp = np.exp(-level_nll) - np.exp(-nll)
        scores.append(Scores(nll, level_nll, kld, same.astype(np.float64), shared, dp))
    return nll, scores


def log_sum_exp(logits: Logits) -> Values:
    """Natural logarithm of the sum of exp over each row."""
    highest = logits.max(axis=1, keepdims=True)
    terms = logits - highest
    np.exp(terms, out=terms)
    return np.asarray(highest[:, 0] + np.log(terms.sum(axis=1, dtype=np.float64)), np.float64)


def largest(logits: Logits) -> npt.NDArray[np.intp]:
    """Ids of the five largest logits of each row (all, where there are fewer), in no order."""
    n, width = logits.shape
    top = min(_TOP, width)
    if width <= _RUN * top:
        return np.argpartition(logits, width - top, axis=1)[:, width - top :]
    # A partition of 262 144 logits takes 20 times as long as all else here. The five largest are in the five runs
    # whose maxima are the largest.
    starts = np.arange(0, width, _RUN)
    maxima = np.maximum.reduceat(logits, starts, axis=1)
    runs = np.argpartition(maxima, len(starts) - top, axis=1)[:, len(starts) - top :]
    ids = (starts[runs][:, :, None] + np.arange(_RUN)).reshape(n, top * _RUN)
    values = np.where(ids < width, np.take_along_axis(logits, np.minimum(ids, width - 1), axis=1), -np.inf)
    found = np.argpartition(values, ids.shape[1] - top, axis=1)[:, ids.shape[1] - top :]
    return np.take_along_axis(ids, found, axis=1)


def overlap(one: npt.NDArray[np.intp], other: npt.NDArray[np.intp]) -> Values:
    """The share of ids of each row of ``one`` that the same row of ``other`` has too."""
    return np.asarray((one[:, :, None] == other[:, None, :]).any(axis=2).mean(axis=1), np.float64)
