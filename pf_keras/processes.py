"""Work in several processes, and a progress bar."""

import concurrent.futures
import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator

from pf_keras.errors import UserError


def cores() -> int:
    """The number of CPU cores this process may use. A container may allow fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(function: Callable, tasks: Iterable, processes: int) -> Iterator:
    """Run a function on each task in worker processes.

    Args:
        function: must be importable, because workers are spawned.
        tasks: read only as workers need them, at most two a worker ahead.
        processes: the number of workers.

    Yields:
        The results in the order in which they are done.

    Raises:
        UserError: a worker died. An exception of `function` is raised as it is.
    """
    tasks = iter(tasks)
    context = multiprocessing.get_context("spawn")
    executor = concurrent.futures.ProcessPoolExecutor(processes, context, _end_with_parent)
    try:
        running = {executor.submit(function, task) for task in itertools.islice(tasks, 2 * processes)}
        while running:
            done, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            running |= {executor.submit(function, task) for task in itertools.islice(tasks, len(done))}
            for future in done:
                yield future.result()
    except concurrent.futures.process.BrokenProcessPool:
        raise UserError(
            "A worker process died, perhaps for lack of memory. Finished work is kept. Run again with fewer --processes."
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """End a worker when its parent is killed. Ctrl-C is left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def progress(total: int | None, unit: str, description: str, delay: float = 0):
    """A tqdm bar on standard error after `delay` seconds. It updates often on a terminal, and every 10 s in a log file."""
    from tqdm import tqdm

    interval = 0.2 if sys.stderr.isatty() else 10
    return tqdm(total=total, unit=unit, desc=description, mininterval=interval, maxinterval=interval, delay=delay)
