"""llama-perplexity's own numbers: its 16-bit log-probabilities, its sums and its statistics over tokens.

Formulas: llama.cpp, tools/perplexity/perplexity.cpp, ``log_softmax`` and ``kl_divergence``. It computes each token in
float32 and takes tokens as independent; that is kept here, so that the figures agree to the digits it prints.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from exporter.verify.metrics import Logits, Scores, Targets, Values, largest, overlap

_REACH = np.float32(16.0)  # nats below the likeliest token that the 16 bits hold
_STEPS = np.float32(65535.0)
_FEWEST = 10  # values that a standard error is computed from
_QUANTILES = {"p999": 0.999, "p99": 0.99, "p95": 0.95, "p90": 0.9, "p10": 0.1, "p05": 0.05, "p01": 0.01, "p001": 0.001}


def encoded(logits: Logits) -> tuple[Logits, Values]:
    """Log-probabilities after a logits file's 16 bits, and ln of each row's sum of exp less its maximum."""
    highest = logits.max(axis=1, keepdims=True)
    lowest = np.maximum(logits.min(axis=1, keepdims=True), highest - _REACH)
    total = np.log(np.exp(logits - highest).sum(axis=1, dtype=np.float64))
    least = lowest - highest - total.astype(np.float32)[:, None]
    scale = (highest - lowest) / _STEPS
    steps = np.maximum(logits - lowest, np.float32(0.0))
    np.multiply(steps, np.divide(np.float32(1.0), scale, where=scale > 0, out=np.zeros_like(scale)), out=steps)
    np.rint(steps, out=steps)
    np.multiply(steps, scale, out=steps)
    return np.add(steps, least, out=steps), total


def compare(reference: Logits, levels: Sequence[Logits], targets: Targets) -> tuple[Values, list[Scores]]:
    """As ``metrics.compare``, the reference through 16 bits; the returned -ln p of the reference is not."""
    rows = np.arange(len(targets))
    base, total = encoded(reference)
    nll = reference.max(axis=1) - reference[rows, targets] + total
    nll_base = -base[rows, targets]
    best, top = base.argmax(axis=1), largest(reference)
    weights = np.where(base > -_REACH, np.exp(base), np.float32(0.0))
    scores = []
    for logits in levels:
        highest = logits.max(axis=1)
        log_sum = np.log(np.exp(logits - highest[:, None]).sum(axis=1, dtype=np.float64)).astype(np.float32)
        normalizer = highest + log_sum
        level_nll = normalizer - logits[rows, targets]
        same, shared = logits.argmax(axis=1) == best, overlap(top, largest(logits))
        terms = np.subtract(base, logits, out=logits)
        np.add(terms, normalizer[:, None], out=terms)
        np.multiply(terms, weights, out=terms)
        kld = terms.sum(axis=1, dtype=np.float64)
        dp = np.exp(-level_nll) - np.exp(-nll_base)
        parts = (nll_base, level_nll, kld, same, shared, dp)
        scores.append(Scores(*(np.asarray(part, np.float64) for part in parts)))
    return np.asarray(nll, np.float64), scores


def final_estimate(nll: Values) -> dict[str, float]:
    """What llama-perplexity prints last without --kl-divergence: perplexity, and its error over tokens."""
    mean, error = _mean(nll)
    return {"ppl": float(np.exp(mean)), "ppl_error": float(np.exp(mean) * error)}


def statistics(scores: Scores) -> dict[str, float]:
    """What llama-perplexity prints with --kl-divergence, under names of ours; shares and dp as fractions."""
    mean_q, error_q = _mean(scores.nll)
    mean_base, error_base = _mean(scores.nll_reference)
    both = _covariance(scores.nll, scores.nll_reference)
    ppl_q, ppl_base = float(np.exp(mean_q)), float(np.exp(mean_base))
    ln_ratio, ln_error = mean_q - mean_base, _root(error_q**2 + error_base**2 - 2 * both)
    errors = ppl_q * error_q, ppl_base * error_base
    return {
        **final_estimate(scores.nll),
        "ppl_q": ppl_q,
        "ppl_q_error": errors[0],
        "ppl_base": ppl_base,
        "ppl_base_error": errors[1],
        "correlation": both / (error_q * error_base) if error_q * error_base else 0.0,
        "ln_ppl_ratio": ln_ratio,
        "ln_ppl_ratio_error": ln_error,
        "ppl_ratio": float(np.exp(ln_ratio)),
        "ppl_ratio_error": float(np.exp(ln_ratio) * ln_error),
        "ppl_difference": ppl_q - ppl_base,
        "ppl_difference_error": _root(errors[0] ** 2 + errors[1] ** 2 - 2 * ppl_q * ppl_base * both),
        **_spread("kld", scores.kld),
        **_spread("dp", scores.dp),
        **_agreement(scores),
    }


def _agreement(scores: Scores) -> dict[str, float]:
    square, square_error = _mean(scores.dp**2)
    rms, same = _root(square), float(scores.top1.mean())
    return {
        "rms_dp": rms,
        "rms_dp_error": 0.5 / rms * square_error if rms else 0.0,
        "same_top": same,
        "same_top_error": _root(same * (1 - same) / max(scores.top1.size - 1, 1)),
    }


def _spread(name: str, values: Values) -> dict[str, float]:
    mean, error = _mean(values)
    ordered = np.sort(values.ravel().astype(np.float32))
    found = {key: _quantile(ordered, share) for key, share in _QUANTILES.items()}
    if name == "dp":
        found |= {"p75": _quantile(ordered, 0.75), "p25": _quantile(ordered, 0.25)}
    found |= {"median": float(np.median(ordered)), "max": float(ordered[-1]), "min": float(ordered[0])}
    return {f"{name}_mean": mean, f"{name}_error": error, **{f"{name}_{key}": value for key, value in found.items()}}


def _quantile(ordered: npt.NDArray[np.float32], share: float) -> float:
    """Between neighbours in proportion; the place in float32, as there."""
    place = np.float32(share) * np.float32(len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    part = place - np.float32(below)
    return float((np.float32(1.0) - part) * ordered[below] + part * ordered[above])


def _mean(values: Values) -> tuple[float, float]:
    """Mean, and its standard error with tokens taken as independent; 0 from ten values or fewer."""
    mean = float(values.mean())
    variance = float((values**2).mean()) - mean**2
    return mean, _root(variance / (values.size - 1)) if values.size > _FEWEST else 0.0


def _covariance(one: Values, other: Values) -> float:
    if one.size < _FEWEST:
        return 0.0
    return float((one * other).mean() - one.mean() * other.mean()) / (one.size - 1)


def _root(value: float) -> float:
    return float(np.sqrt(max(value, 0.0)))
