"""A measurement in the fields of report.json.

Every ``error`` is one standard error over chunks: the standard deviation of the chunks' means over the square root of
their number. It is null from fewer than two chunks.
"""

from dataclasses import asdict

import numpy as np

from exporter.verify import compat
from exporter.verify.measurement import Level, Measurement
from exporter.verify.metrics import Values

_QUANTILES = {"median": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
_FEWEST_CHUNKS = 2

Fields = dict[str, object]


def measured_on_fields(measurement: Measurement) -> Fields:
    """The block ``measured_on``."""
    return asdict(measurement.measured_on)


def reference_fields(measurement: Measurement) -> Fields:
    """What is measured of the block ``reference``: its perplexity; ``llama_cpp`` in that mode. Empty if nothing was."""
    if measurement.nll is None:
        return {}
    value = float(np.exp(measurement.nll.mean()))
    fields: Fields = {"perplexity": {"value": value, "error": _scaled(value, standard_error(measurement.nll))}}
    if measurement.measured_on.mode == "llama.cpp":
        fields["llama_cpp"] = compat.final_estimate(measurement.nll)
    return fields


def level_fields(measurement: Measurement, level: Level) -> Fields:
    """What is measured of a level: ``perplexity``, ``kld``, ``top1``, ``top5``, ``dp``; or else only ``error``.

    ``dp.error`` is that of ``dp.mean``. In mode "llama.cpp" there is a block ``llama_cpp`` with llama-perplexity's own
    statistics, whose errors take tokens as independent, as it does.
    """
    scores = level.scores
    if scores is None or measurement.nll is None:
        return {"error": level.error}
    fields: Fields = {
        "perplexity": _perplexity(scores.nll, measurement.nll),
        "kld": _kld(scores.kld),
        "top1": {"value": float(scores.top1.mean()), "error": standard_error(scores.top1)},
        "top5": {"value": float(scores.top5.mean()), "error": standard_error(scores.top5)},
        "dp": {
            "mean": float(scores.dp.mean()),
            "rms": float(np.sqrt((scores.dp**2).mean())),
            "error": standard_error(scores.dp),
        },
    }
    if measurement.measured_on.mode == "llama.cpp":
        fields["llama_cpp"] = compat.statistics(scores)
    return fields


def standard_error(values: Values) -> float | None:
    """The standard error of the mean of values (chunks x tokens), from the chunks' means; None from one chunk."""
    means = values.mean(axis=1)
    if len(means) < _FEWEST_CHUNKS:
        return None
    return float(means.std(ddof=1) / np.sqrt(len(means)))


def _perplexity(nll: Values, reference: Values) -> Fields:
    """Errors by the delta method: that of exp(m) is exp(m) times that of m. The ratio's is of paired differences.

    Both are as computed, also in mode "llama.cpp", whose own ratio takes the reference after 16 bits.
    """
    difference = nll - reference
    value, ratio = float(np.exp(nll.mean())), float(np.exp(difference.mean()))
    return {
        "value": value,
        "error": _scaled(value, standard_error(nll)),
        "ratio": ratio,
        "ratio_error": _scaled(ratio, standard_error(difference)),
    }


def _kld(kld: Values) -> Fields:
    quantiles = {name: float(np.quantile(kld, share)) for name, share in _QUANTILES.items()}
    return {"mean": float(kld.mean()), "error": standard_error(kld), **quantiles, "max": float(kld.max())}


def _scaled(value: float, error: float | None) -> float | None:
    return None if error is None else value * error
