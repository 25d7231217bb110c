"""Work spread over the cores: processes that end with the one that started them, and a line that shows progress."""

import concurrent.futures
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tfrecords.errors import UserError

Task, Result = TypeVar("Task"), TypeVar("Result")


def cores() -> int:
    """The cores this process may use, which in a container are fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(function: Callable[[Task], Result], tasks: Iterable[Task], processes: int) -> Iterator[Result]:
    """`function` of each task, in the order in which they are done. Tasks are taken as needed, not all at once.

    Processes are spawned, so `function` has to be importable. The first error that one raises is raised here; a process
    that dies (of too little memory, say) is a UserError.
    """
    context = multiprocessing.get_context("spawn")
    tasks, waiting = iter(tasks), set()
    with concurrent.futures.ProcessPoolExecutor(processes, context, _end_with_parent) as executor:
        try:
            while True:
                while len(waiting) < 2 * processes and (task := next(tasks, None)) is not None:
                    waiting.add(executor.submit(function, task))
                if not waiting:
                    return
                done, waiting = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except concurrent.futures.process.BrokenProcessPool:
            raise UserError(
                "expected the worker processes to live, one ended at once (of too little memory?); try fewer "
                "--processes; what is finished is kept"
            ) from None
        except BaseException:  # also where the caller takes no more: what has not begun is dropped
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """A worker whose parent is killed would wait for ever; Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def progress(total: int, unit: str, description: str):
    """A tqdm bar on standard error: a moving line on a terminal, a line now and then in a log."""
    from tqdm import tqdm

    interval = 0.2 if sys.stderr.isatty() else 10
    return tqdm(total=total, unit=unit, desc=description, mininterval=interval, maxinterval=interval)
