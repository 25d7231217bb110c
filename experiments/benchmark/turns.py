"""Timing on a machine that does other work: alternatives take turns, and a ratio is the median over the turns."""

import gc
import statistics
import time
from collections.abc import Callable

Seconds = dict[str, list[float]]


def take_turns(works: dict[str, Callable[[], float | None]], rounds: int, warm_up: int = 1) -> Seconds:
    """Run each function once per round, in an order that reverses every round.

    Args:
        works: the functions by name. A function may return the seconds that count, if only a part of it does.
        rounds: the timed rounds.
        warm_up: the rounds before them that are not timed.

    Returns:
        The seconds of each round, by name.
    """
    seconds, names = {name: [] for name in works}, list(works)
    for turn in range(-warm_up, rounds):
        for name in names if turn % 2 else reversed(names):
            gc.collect()
            began = time.perf_counter()
            counted = works[name]()
            taken = time.perf_counter() - began
            if turn >= 0:
                seconds[name].append(taken if counted is None else counted)
    return seconds


def ratio(seconds: Seconds, name: str, reference: str) -> float:
    """The time of `name` divided by the time of `reference`: the median over the rounds."""
    return statistics.median(_ratios(seconds, name, reference))


def spread(seconds: Seconds, name: str, reference: str) -> str:
    """The smallest and largest ratio of a round, as text."""
    ratios = _ratios(seconds, name, reference)
    return f"{min(ratios):.3g} to {max(ratios):.3g} in {len(ratios)} rounds"


def _ratios(seconds: Seconds, name: str, reference: str) -> list[float]:
    return [a / b for a, b in zip(seconds[name], seconds[reference], strict=True)]
