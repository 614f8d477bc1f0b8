"""Which runner the command line asks for. Each is imported when it is chosen."""

from __future__ import annotations

import argparse

from compile.running.runners.base import Runner
from compile.targets import Target
from tune.errors import TuneError

RUNNERS = ("local", "adb", "rpc", "emulated")


def add_runner_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("where to run").add_argument
    add(
        "--runner",
        choices=RUNNERS,
        default="local",
        help="this machine; phones over adb; TVM's RPC; an emulator (an estimate)",
    )
    add("--cores", metavar="0,1", help="cores that the library may use there (default: all)")
    add("--serial", metavar="ID", action="append", help="adb: a device; several share the work (default: all attached)")
    add("--cool", type=float, default=45.0, metavar="°C", help="adb: wait until the device is cooler (default: 45)")
    add("--tracker", default="127.0.0.1:9190", metavar="HOST:PORT", help="rpc: the tracker (default: 127.0.0.1:9190)")
    add("--key", default="pocketbert", metavar="KEY", help="rpc: what the servers are registered as")


def make_runner(args: argparse.Namespace, target: Target) -> Runner:
    """Raises TuneError if the device or a program for it is absent."""
    cores = parse_cores(args.cores)
    if args.runner == "local":
        from compile.running.runners.local import LocalRunner

        return LocalRunner(cores)
    if args.runner == "adb":
        from tune.runners.adb import AdbRunner

        return AdbRunner(args.serial, cores, cool=args.cool)
    if args.runner == "rpc":
        from tune.runners.rpc import RpcRunner

        return RpcRunner(args.tracker, args.key, cores)
    if target.arch == "x86_64":
        from tune.runners.cycles import CyclesRunner

        return CyclesRunner()
    from tune.runners.emulated import EmulatedRunner

    return EmulatedRunner()


def parse_cores(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(core) for core in text.split(",")]
    except ValueError:
        raise TuneError(f"--cores {text}: write core numbers with commas between, such as 0,1") from None
