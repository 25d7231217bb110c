"""Which records each of several hosts reads."""

from collections.abc import Sequence

import numpy as np


def share(counts: Sequence[int], host: int, hosts: int) -> np.ndarray:
    """The records that a host reads: as many as every other host, or one fewer.

    A host with fewer records would begin its epochs earlier and earlier, and train more often on each of its examples. So the
    files are dealt in turn, as cards are, and then the records are cut evenly. Where the cut falls within a file, two hosts
    read it.

    Args:
        counts: how many records each file has.
        host: its number.
        hosts: how many there are.

    Returns:
        int64 (F, 3), a row for each file that the host reads: the number of the file, and its first record and the one after
        its last. A file without records stays with the host that it was dealt to.
    """
    counts = np.asarray(counts, "int64")
    order = np.concatenate([np.arange(dealt, len(counts), hosts) for dealt in range(hosts)])
    ends = np.cumsum(counts[order])
    starts = ends - counts[order]
    low, high = (int(ends[-1]) * number // hosts for number in (host, host + 1))
    read = (starts < high) & (ends > low) | (counts[order] == 0) & (order % hosts == host)
    cuts = (np.clip(edge - starts, 0, counts[order]) for edge in (low, high))
    return np.stack([order, *cuts], axis=1)[read]
