"""How a cost grows, in words: fitted to its figures by least squares."""

import math
import statistics
from collections.abc import Sequence

SAME = 0.1  #: with a lower exponent, a cost does not double while a number grows a thousandfold
IN_PROPORTION = 0.9


def exponent(numbers: Sequence[float], costs: Sequence[float]) -> float:
    """Return the exponent of the power of a number that is nearest to its costs, on a scale of logarithms."""
    return statistics.linear_regression([*map(math.log, numbers)], [*map(math.log, costs)]).slope


def line(sizes: Sequence[float], costs: Sequence[float]) -> tuple[float, float]:
    """Return the cost of nothing, and what each unit of size adds."""
    slope, intercept = statistics.linear_regression(sizes, costs)
    return intercept, slope


def power(numbers: Sequence[float], costs: Sequence[float]) -> str:
    """Say how a cost grows with a number, "" of one figure."""
    if len(costs) < 2:
        return ""
    found = exponent(numbers, costs)
    less = "does not grow" if found < SAME else "grows less than the number"
    words = "grows with the number" if found >= IN_PROPORTION else less
    return f"{words} (exponent {round(found, 2) + 0.0:.2f})"  # + 0.0: no minus before a zero


def by_size(kilobytes: Sequence[float], milliseconds: Sequence[float]) -> str:
    """Say what a task costs by its size, "" of one figure."""
    if len(milliseconds) < 2:
        return ""
    fixed, each = line(kilobytes, milliseconds)
    return f"{fixed:.2f} ms, and {each:.4f} ms for each kB"
