"""How numbers are written, in one place: every rendering of a report shows the same digits."""

import math

NOT_MEASURED = "not measured"
"""What stands for an absent value: never 0, never an empty place."""

DIGITS = 4
ERROR_DIGITS = 2
MOST_DECIMALS = 6
UNITS = ((1e9, "GB", 2), (1e6, "MB", 1), (1e3, "kB", 1))
PERCENT = 100.0
ROUNDS_UP = 1 - 0.05 / 1000


def with_error(value: float | None, error: float | None, sign: str = " ± ") -> str:
    """Return ``value ± error``: the error to two significant digits, the value to the same decimals.

    Without an error (or with one of 0) it is the value alone, to four significant digits. What would take more than
    six decimals is written with an exponent: ``(1.23 ± 0.11)e-05``.
    """
    if value is None:
        return NOT_MEASURED
    if error is None or error <= 0:
        return plain(value)
    decimals = ERROR_DIGITS - 1 - _exponent(error, ERROR_DIGITS)
    if decimals > MOST_DECIMALS and abs(value) < 1:
        power = _exponent(max(abs(value), error), ERROR_DIGITS)
        scaled = max(decimals + power, 0)
        return f"({value / 10.0**power:.{scaled}f}{sign}{error / 10.0**power:.{scaled}f})e{power:03d}"
    decimals = max(decimals, 0)
    return f"{_zero(value, decimals):.{decimals}f}{sign}{error:.{decimals}f}"


def plain(value: float | None, digits: int = DIGITS) -> str:
    """Return ``value`` to four significant digits, with an exponent where it would start with four zeros."""
    if value is None:
        return NOT_MEASURED
    if value == 0:
        return "0"
    exponent = _exponent(value, digits)
    if exponent < -DIGITS:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(digits - 1 - exponent, 0)}f}"


def percent(value: float | None, error: float | None, sign: str = " ± ") -> str:
    """Return a share of 1 as per cent, with its error: ``92.00 ± 0.30``; the sign % is the caller's."""
    if value is None:
        return NOT_MEASURED
    if error is None or error <= 0:
        return f"{_zero(value * PERCENT, ERROR_DIGITS):.{ERROR_DIGITS}f}"
    return with_error(value * PERCENT, error * PERCENT, sign)


def share(part: float, whole: float) -> str:
    """Return ``part`` of ``whole`` as per cent with one decimal, or ``< 0.1 %`` where that would round to nothing."""
    if whole <= 0:
        return NOT_MEASURED
    value = PERCENT * part / whole
    least = 0.1
    return f"< {least} %" if 0 < value < least else f"{value:.1f} %"


def size(count: int | None) -> str:
    """Return a number of bytes in decimal units: ``105.5 MB``, ``4.37 GB``."""
    if count is None:
        return NOT_MEASURED
    for unit, name, decimals in UNITS:
        # The unit is chosen after rounding: 999 960 000 bytes are 1.00 GB, not 1000.0 MB.
        if count >= unit * ROUNDS_UP:
            return f"{count / unit:.{decimals}f} {name}"
    return f"{count} bytes"


def bits(value: float | None) -> str:
    """Return bits per weight, with two decimals."""
    return NOT_MEASURED if value is None else f"{value:.2f}"


def count(value: int | None) -> str:
    """Return a whole number in groups of three digits."""
    return NOT_MEASURED if value is None else f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _exponent(value: float, digits: int) -> int:
    """Return the power of ten of the first digit, once ``value`` is rounded to ``digits`` digits: 0.0999 -> -1."""
    return int(f"{abs(value):.{digits - 1}e}".split("e")[1])


def _zero(value: float, decimals: int) -> float:
    """Return ``value``, or 0 where it would be printed as -0."""
    return 0.0 if math.fabs(value) < 0.5 * 10.0**-decimals else value
