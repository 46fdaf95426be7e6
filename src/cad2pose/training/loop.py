"""The training loop, to be read from top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from pathlib import Path

from cad2pose.structures import CropBatch, CropSource
from cad2pose.training.compiling import compile_networks
from cad2pose.training.journal import Journal, Progress
from cad2pose.training.prefetch import prefetch
from cad2pose.training.processes import ALONE, Processes, joined
from cad2pose.training.run import Run
from cad2pose.training.run_folder import MODEL, RunFolder
from cad2pose.training.run_pictures import save_samples
from cad2pose.training.step import training_step
from cad2pose.training.stopping import stop_requests


def train(
    run: Run,
    crops: CropSource,
    validation_crops: CropSource,
    out: Path,
    report: Callable[[Progress], None] = lambda progress: None,
    judged: Callable[[], None] = lambda: None,
    stop_after: int | None = None,
    processes: Processes = ALONE,
    compiled: bool = False,
) -> Path:
    """Train, or go on with, the run in folder `out`; returns the path of the model file.

    Args:
        run: what is trained.
        crops: training crops on the run's device.
        validation_crops: crops of another seed and style, judged with the averaged weights.
        out: the run folder.
        report: called every 50 steps and after the last.
        judged: called after every validation and at the end, when curves and pictures are written.
        stop_after: stop (with a checkpoint) after this many steps of this call.
        processes: which of several processes this is; the first one writes and judges.
        compiled: compile the networks first, where there is a compiler (`compile_networks`); it takes minutes.

    Raises:
        ValueError: if `out` holds a run with other settings, or the processes cannot share the batches evenly.
        KeyboardInterrupt: if the process was asked to stop (Ctrl-C, SIGTERM): after the step at hand, and after a
            checkpoint was written.
    """
    training, first, shards = run.training, processes.first, processes.shards(run.training.shards)
    state = run.state()
    if first:
        folder = RunFolder(out)
        folder.claim(run)
        state.restore(out)
        folder.drop_curves_after(state.step)
    state.share(processes)
    if compiled:
        compile_networks(state.method, run.device)
    losses = joined(state.method, processes)
    last = training.steps if stop_after is None else min(training.steps, state.step + stop_after)
    made = _batches(run, crops, shards, state.step, last)
    state.method.train()
    if first and state.step == 0:
        save_samples(out / "samples.png", crops.batch(max(0, training.easing), training.batch_size // training.shards))
    entries = Journal(run, state, out, validation_crops, last, report, judged) if first else nullcontext()
    stopping = False
    with stop_requests(tell=first) as asked:
        with entries as journal:
            for batches in made:
                terms = processes.mean(training_step(state, batches, training, losses, processes))
                stopping = asked.agreed(processes, state.step)
                if journal is not None:
                    journal.entry(terms, batches[0], stopping)
                if stopping:
                    break
        if stopping:
            processes.any(False)  # all wait for the first, which torchrun would end as soon as another ends
    if stopping or asked:
        raise KeyboardInterrupt(f"stopped after step {state.step} of {training.steps}; the same command goes on")
    return out / MODEL


def _batches(run: Run, crops: CropSource, shards: range, first: int, last: int) -> Iterator[list[CropBatch]]:
    """This process's shards of the batches of steps first, ..., last - 1."""
    each, size = len(shards), run.training.batch_size // run.training.shards

    def batch(number: int) -> CropBatch:
        return crops.batch(number // each * run.training.shards + shards[number % each], size)

    with closing(prefetch(batch, first * each, last * each, run.device)) as made:
        for _ in range(first, last):
            yield [next(made) for _ in range(each)]
