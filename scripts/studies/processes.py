"""Calls functions several at a time, each in a process of its own with its share of the cores."""

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any, NamedTuple


class Task(NamedTuple):
    """A function to call in a process of its own.

    name: as it is printed.
    function: returns an exit code, as `sys.exit` takes it; importable in a new process.
    arguments: of the function.
    log: the file that gets what the process prints.
    """

    name: str
    function: Callable[..., object]
    arguments: tuple[Any, ...]
    log: Path


def run_all(tasks: Sequence[Task], at_a_time: int) -> Iterator[tuple[Task, int]]:
    """Run the tasks, begun in their order; yield each with its exit code as it ends.

    The code is that of the function, 1 after an error, or minus the signal that ended the process.
    Says which task begins, and of one that fails the last line of its log. Processes that still run
    when the generator is closed are terminated.
    """
    free, waiting = _shares(at_a_time), list(enumerate(tasks, 1))[::-1]
    running: dict[Any, tuple[Any, Task, list[int]]] = {}
    try:
        while waiting or running:
            while waiting and free:
                number, task = waiting.pop()
                print(f"[{number} of {len(tasks)}] {task.name}", flush=True)
                cores = free.pop(0)
                process = _start(task, cores)
                running[process.sentinel] = process, task, cores
            for sentinel in connection.wait(list(running)):
                process, task, cores = running.pop(sentinel)
                process.join()
                free.append(cores)
                if process.exitcode:
                    _say_failure(task, process.exitcode)
                yield task, process.exitcode
    finally:
        for process, _, _ in running.values():
            process.terminate()


def _shares(at_a_time: int) -> list[list[int]]:
    """Divide the cores of this process among so many; [] where the system cannot pin."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return [cores[first::at_a_time] or cores for first in range(at_a_time)]


def _start(task: Task, cores: list[int]) -> Any:
    task.log.parent.mkdir(parents=True, exist_ok=True)
    process = multiprocessing.get_context("spawn").Process(target=_call, args=(task,))
    with _pinned(cores):
        process.start()
    return process


@contextlib.contextmanager
def _pinned(cores: list[int]) -> Iterator[None]:
    """Pin this process for a while: those that it starts are pinned before they load anything.

    A library starts as many threads as it sees cores, some already when it is loaded.
    """
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _call(task: Task) -> None:
    """Call the task's function in this process, whose output goes to the log."""
    with task.log.open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # in order with errors
    sys.exit(task.function(*task.arguments))  # type: ignore[arg-type]


def _say_failure(task: Task, code: int) -> None:
    lines = task.log.read_text().strip().splitlines() if task.log.exists() else []
    print(f"{task.name}: {lines[-1] if lines else f'exit code {code}'}", file=sys.stderr)
