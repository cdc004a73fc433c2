"""How far logits are from others: the mean KL divergence of their probabilities."""

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]
BLOCK = 16


def mean_kld(truth: Logits, found: Logits) -> float:
    """The mean over all rows of KL(truth || found), in nats, a few rows at a time.

    Args:
        truth: (rows, vocabulary).
        found: of the same shape.
    """
    total = 0.0
    for start in range(0, len(truth), BLOCK):
        p, q = (log_probabilities(some[start : start + BLOCK]) for some in (truth, found))
        total += float((np.exp(p) * (p - q)).sum())
    return total / len(truth)


def log_probabilities(logits: Logits) -> npt.NDArray[np.float64]:
    """The logarithms of the softmax of each row, in float64."""
    wide = logits.astype(np.float64)
    return np.asarray(wide - np.logaddexp.reduce(wide, axis=1)[:, None])
