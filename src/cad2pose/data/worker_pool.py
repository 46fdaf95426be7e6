"""Independent tasks in processes of one thread each, which end with the process that began them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any, TypeVar

import torch

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")
_mine: dict[str, Any] = {}


def run_tasks(
    start: Callable[..., Any],
    arguments: tuple[Any, ...],
    work: Callable[[Any, _Task], _Result],
    tasks: Sequence[_Task],
    workers: int,
) -> Iterator[_Result]:
    """Do tasks that do not depend on each other; yields results as they come, in any order with several workers.

    Processes are spawned, so the functions must be those of a module, and a script that calls this must do so under
    `if __name__ == "__main__":`. One worker is this process itself. What `start` warns of is said once, and here.

    Args:
        start: called with `arguments` once in each worker; what it returns is handed to `work`.
        arguments: of `start`.
        work: does one task.
        tasks: what there is to do.
        workers: number of processes.

    Raises:
        ChildProcessError: if a process dies of something that is no exception (killed, out of memory).
        Exception: whatever `start` or `work` raises; tasks not yet begun are dropped.
    """
    workers = min(workers, len(tasks))
    if workers <= 1:
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(1)  # sums are added in the order that every worker adds them in
            mine = start(*arguments) if tasks else None
            for task in tasks:
                yield work(mine, task)
        finally:
            torch.set_num_threads(threads)
        return
    context = multiprocessing.get_context("spawn")
    said: set[str] = set()
    with ProcessPoolExecutor(workers, context, _begin, (start, arguments)) as pool:
        try:
            for future in as_completed([pool.submit(_do, work, task) for task in tasks]):
                result, told = future.result()
                for text, kind in told:
                    if text not in said:
                        said.add(text)
                        warnings.warn(text, kind, stacklevel=2)
                yield result
        except BrokenProcessPool as error:
            raise ChildProcessError(
                f"one of {workers} processes died: it was killed, or memory ran out; the same command goes on where it "
                "stopped, perhaps with fewer workers"
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _begin(start: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ["NUMBA_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with warnings.catch_warnings(record=True) as caught:
        try:
            _mine["state"] = start(*arguments)
        except Exception as error:  # an initialiser that raises would end the pool without a word of what it was
            _mine["error"] = error
    _mine["told"] = [(str(one.message), one.category) for one in caught]


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _do(work: Callable[[Any, _Task], _Result], task: _Task) -> tuple[_Result, list[tuple[str, type[Warning]]]]:
    """What a task gives, and what was warned of when this process started, if nobody was told yet."""
    if "error" in _mine:
        raise _mine["error"]
    return work(_mine["state"], task), _mine.pop("told", [])
