"""Search for architectures: quality, latency of the compiled library, and size.

Workers share a study by its storage alone, so run this command on as many machines of a kind as there are; one that
is killed loses its running trial, which another worker tries again. Each candidate is asked the cheap questions first:
the space's bounds, the latency predicted from its kernels, then its compiled library's latency on the runner, and at
last its quality. What is measured once is kept in the study.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compile.running.runners.base import RunnerError
from pocketbert.command import say
from pocketbert.errors import PocketBERTError, disk_is_full
from tune.errors import TuneError
from tune.runners.choose import add_runner_arguments, make_runner

if TYPE_CHECKING:
    from tune.search.candidate import Search
    from tune.search.workers import Worker

EXAMPLES = """examples:
  %(prog)s --study mine --storage sqlite:///mine.db --space mobilebert --quality mine.toml --trials 100
  %(prog)s --study toy --storage journal:toy.log --space mobilebert-toy --workers 2
  %(prog)s --study mine --storage postgresql://host/studies --quality-command './score.sh {config}'
  python -m tune report --study mine --storage sqlite:///mine.db
"""
ATTEMPTS = 3  # at a trial for which the machine was too busy
BUSY_TRIALS = 6  # in a row, after which it is not worth going on
REPLACEMENTS = 3  # of each worker that dies
POLL = 0.2  # seconds
GRACE = 5.0  # seconds that workers have after --time-limit
ANSWERS = (2, 130, 143)  # exit statuses of one that did not die: an error that it named, or a wish to stop
PATIENCE = 500  # candidates in a row that come to nothing, after which there is nothing left to find


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add("--study", required=True, metavar="NAME")
    add("--storage", required=True, metavar="ADDRESS", help="sqlite:///FILE, another database, or journal:FILE")
    add("--space", default="mobilebert", metavar="NAME", help="mobilebert, mobilebert-toy or ib-bert")
    add("--threads", type=int, default=1, metavar="N", help="of the measured library (default: 1)")
    add("--target", default="host", help="what libraries are compiled for (default: host)")
    add("--cpu", metavar="NAME", help="as in python -m compile")
    add("--precision", choices=("float32", "int8"), default=["float32"], nargs="+",
        help="of the measured libraries, and of quality; both: an axis of the search (default: float32)")  # fmt: skip
    add("--seq-len", type=int, default=[128], nargs="+", metavar="N",
        help="tokens in a sequence; several: an axis of the search (default: 128)")  # fmt: skip
    add("--quality", type=Path, default=Path("configs/search-quality.toml"), metavar="FILE.toml",
        help="a short distillation on your text (default: configs/search-quality.toml)")  # fmt: skip
    add(
        "--quality-command",
        metavar="CMD",
        help="instead: prints a number, higher is better; {config} is a JSON file, {seed} a number, {precision} and "
        "{seq_len} the library's",
    )
    add("--quality-timeout", type=float, metavar="S", help="seconds that the command may take")
    add("--repeats", type=int, default=3, metavar="N", help="seeds of quality for what is on the front (default: 3)")
    add("--trials", type=int, default=50, metavar="N", help="stop when so many are measured in all (default: 50)")
    add("--time-limit", type=float, metavar="S", help="stop after so many seconds")
    add("--since", type=float, help=argparse.SUPPRESS)  # of a worker: when its time began, by time.monotonic
    add("--max-params", type=float, metavar="N", help="parameters of the encoder (default: the space's)")
    add("--mha-ffn", type=float, nargs=2, metavar=("LOW", "HIGH"), help="attention's over FFNs' parameters")
    add("--max-latency", type=float, default=1.5, metavar="X", help="× the reference row's (default: 1.5)")
    add("--workers", type=int, default=1, metavar="N", help="processes on this machine (default: 1)")
    add("--worker", metavar="NAME", help="this worker's name in the study (default: host and process)")
    add("--seed", type=int, metavar="N", help="of the sampler")
    add_runner_arguments(parser)


def search_architectures(args: argparse.Namespace) -> int:
    for name in ("trials", "repeats", "workers", "threads"):
        if getattr(args, name) < 1:
            raise TuneError(f"--{name} {getattr(args, name)}: at least 1")
    if min(args.seq_len) < 1:
        raise TuneError(f"--seq-len {min(args.seq_len)}: at least 1")
    if args.time_limit is not None and not 0 < args.time_limit < float("inf"):
        raise TuneError(f"--time-limit {args.time_limit:g}: more than 0 seconds")
    try:
        with time_limit(args.time_limit, args.started if args.since is None else args.since):
            return spawn(args) if args.workers > 1 else work(args)
    except TimeUp:
        say(f"after {args.time_limit:g} s the time is up: what was measured is kept; the same command goes on")
        return 0


class TimeUp(BaseException):
    """Raised where the program stands when --time-limit is over; no `except Exception` of a library's takes it."""


@contextmanager
def time_limit(seconds: float | None, since: float) -> Iterator[None]:
    """Raises TimeUp in this process so many seconds after `since`, a time of `time.monotonic`."""
    if seconds is None:
        yield
        return

    def ring(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise TimeUp

    def ring_again(lost: Any) -> None:
        """What is raised while Python destroys an object or calls back is lost: it goes no further than this hook."""
        if lost.exc_type is TimeUp:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
        else:
            hook(lost)

    before, hook = signal.signal(signal.SIGALRM, ring), sys.unraisablehook
    sys.unraisablehook = ring_again
    signal.setitimer(signal.ITIMER_REAL, left_of(seconds, since))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        sys.unraisablehook = hook


def spawn(args: argparse.Namespace) -> int:
    """The same command in processes of its own, each a worker by another name; the worst exit status.

    What all need is made before they start: storage, study, text, teacher, the reference's latency. One that dies is
    replaced.
    """
    with begun(args):
        pass
    base = args.worker or default_name()
    command = [sys.executable, "-m", "pocketbert", "tune", *args.given, "--workers", "1"]

    def start(number: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, f"--since={args.started}", "--worker", f"{base}-{number}"])

    if args.time_limit is not None:  # workers stop by themselves
        signal.setitimer(signal.ITIMER_REAL, left_of(args.time_limit, args.started) + GRACE)
    running = {number: start(number) for number in range(1, args.workers + 1)}
    count, worst = args.workers, 0
    try:
        while running:
            time.sleep(POLL)
            for number, process in list(running.items()):
                if (status := process.poll()) is None:
                    continue
                del running[number]
                if status in (0, *ANSWERS):
                    worst = max(worst, status)
                elif count < args.workers * (1 + REPLACEMENTS):
                    count += 1
                    say(f"worker {base}-{number} died ({exit_reason(status)}): {base}-{count} takes its place")
                    running[count] = start(count)
                else:
                    worst = max(worst, 1)
                    say(f"worker {base}-{number} died ({exit_reason(status)}), as {count - args.workers} before it")
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
    return worst


def left_of(seconds: float, since: float) -> float:
    return max(0.1, seconds - (time.monotonic() - since))


def exit_reason(status: int) -> str:
    return f"status {status}" if status >= 0 else signal.Signals(-status).name


def default_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


@contextmanager
def begun(args: argparse.Namespace) -> Iterator[Search]:
    """The search that `args` ask for, with all that its study needs."""
    from dataclasses import replace

    from compile.targets import find_target
    from tune.search.artifact import Build
    from tune.search.candidate import Search
    from tune.search.quality import Command, Distillation, Quality
    from tune.search.space import find_space
    from tune.search.study import Settings, join_study

    space = find_space(args.space)
    space = replace(space, max_params=args.max_params or space.max_params, mha_ffn=tuple(args.mha_ffn or space.mha_ffn))
    target = find_target(args.target, args.cpu)
    lengths, precisions = (tuple(dict.fromkeys(values)) for values in (args.seq_len, args.precision))
    several = {"seq_lens": lengths if len(lengths) > 1 else (), "precisions": precisions if len(precisions) > 1 else ()}
    quality: Quality = (
        Command(args.quality_command, args.quality_timeout)
        if args.quality_command
        else Distillation.read(args.quality, precisions, several["seq_lens"])
    )
    settings = Settings(
        space.name, target.name, target.cpu.name, lengths[0], args.threads, args.runner, quality.name,
        space.max_params, space.mha_ffn, args.max_latency, precisions[0], **several,
    )  # fmt: skip
    if isinstance(quality, Command):
        quality.check(settings.axes)
    study = join_study(args.study, args.storage, settings, args.seed)
    build = Build(args.target, args.cpu, lengths[0], precisions[0])
    with (
        make_runner(args, target) as runner,
        Search(study, space, build, runner, quality, args.threads, args.max_latency, settings.axes) as search,
    ):
        search.prepare()
        yield search


def work(args: argparse.Namespace) -> int:
    from tune.search.workers import Worker

    with begun(args) as search, Worker(search.study, args.worker or default_name()) as worker:
        print(
            f"{worker.name}: {search.space.reference} takes {search.reference_ms:.2f} ms on {args.runner}", flush=True
        )
        loop(search, worker, args.trials)
        for number in search.repeat_qualities(args.repeats):
            print(f"trial {number}: its quality by {args.repeats} seeds", flush=True)
        for number in search.measure_front_again():
            print(f"trial {number}: on the front, measured again", flush=True)
    return 0


def loop(search: Search, worker: Worker, trials: int) -> None:
    """Judge candidates until `trials` of the study are measured, and say of each what became of it."""
    from optuna import TrialPruned
    from optuna.trial import TrialState

    from tune.search.latency import Unmeasurable
    from tune.search.study import complete
    from tune.search.workers import OWNER

    study, wasted, busy = search.study, 0, 0
    while (done := len(complete(study))) < trials:
        if wasted == PATIENCE:
            raise TuneError(f"no candidate in {PATIENCE} was measured: widen --max-params, --mha-ffn or --max-latency")
        for number in worker.take_over():
            print(f"trial {number}: its worker died, so it is tried again", flush=True)
        trial, begun = study.ask(), time.monotonic()
        trial.set_user_attr(OWNER, worker.name)
        try:
            quality, ms, mib = values = search.evaluate(trial)
        except (
            RunnerError
        ):  # the device's fault and not the candidate's: another worker, or this one later, tries again
            worker.give_up(trial)
            raise
        except TimeUp:
            with suppress(Exception):  # the storage may have been in the middle of something: then it counts as dead
                worker.give_up(trial)
            raise
        except Unmeasurable as reason:
            trial.set_user_attr("unmeasured", str(reason))
            worker.give_up(trial, ATTEMPTS)
            busy += 1
            if busy == BUSY_TRIALS:
                raise TuneError(
                    f"{busy} trials in a row could not be measured, the last: {reason}; the same command goes on when "
                    "the machine is quiet"
                ) from reason
            said = f"could not be measured, {reason}"
        except (TrialPruned, PocketBERTError) as reason:  # one candidate's: the search goes on
            if disk_is_full(reason):
                worker.give_up(trial)
                raise
            pruned = isinstance(reason, TrialPruned)
            what = "pruned" if pruned else "failed"
            trial.set_user_attr(what, str(reason))
            study.tell(trial, state=TrialState.PRUNED if pruned else TrialState.FAIL)
            said, wasted = f"{what}, {reason}", wasted + 1
        else:
            study.tell(trial, values)
            predicted, wasted, busy = trial.user_attrs["predicted_ms"], 0, 0
            said = (
                f"quality {quality:.4g}, {ms:.2f} ms (predicted {predicted:.2f}), {mib:.1f} MiB; {done + 1} of {trials}"
            )
        print(f"trial {trial.number}: {said}, {time.monotonic() - begun:.0f} s", flush=True)
