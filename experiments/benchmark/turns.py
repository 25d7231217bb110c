"""Timing where other work disturbs: alternatives take turns, and a ratio is the median over the turns."""

import gc
import statistics
import time


def take_turns(works, rounds, warm_up=1):
    """Run each of `works` ({name: function}) once a round; the seconds of each: {name: [seconds, ...]}.

    A function may return the seconds that count, where only a part of it does. The order turns round by round, so that
    none always follows the same one.
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


def ratio(seconds, name, reference):
    """How long `name` takes as a multiple of `reference`: the median over the rounds."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[reference], strict=True))


def spread(seconds, name, reference):
    """The smallest and largest ratio of a round, as text."""
    ratios = [a / b for a, b in zip(seconds[name], seconds[reference], strict=True)]
    return f"{min(ratios):.3g} to {max(ratios):.3g} in {len(ratios)} rounds"
