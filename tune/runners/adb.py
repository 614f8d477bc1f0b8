"""Runs libraries on phones over adb, one on each attached device at a time.

A phone that is hot runs slower than it can, so each run waits until the hottest sensor of its processor is below
`cool` °C. A phone that is unplugged is left out from then on; its work goes to the others as long as there are any.
"""

from __future__ import annotations

import hashlib
import os
import queue
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

from compile.artifact.manifest import LibraryFacts
from compile.running.runners.base import WARM_UP, Device, Execution, RunFailed, Runner, RunnerError, parse_times
from pocketbert.temporary import TemporaryFolder
from tune.runners.program import build_device_program

FOLDER = "/data/local/tmp"
COMMAND_SECONDS = 60.0
PUSH_SECONDS = 300.0
# Seconds between looks at the sensors, and after which a device that stays hot is an error.
LOOK_AGAIN, GIVE_UP = 5.0, 900.0
# What to read in one go: type and milli-degrees of every sensor.
SENSORS = 'for z in /sys/class/thermal/thermal_zone*; do echo "$(cat $z/type) $(cat $z/temp)"; done 2>/dev/null'


class Unplugged(RunnerError):
    """adb no longer finds the device."""


@dataclass(eq=False)
class Phone:
    """One attached device."""

    adb: str
    serial: str
    name: str = ""
    cores: tuple[int, ...] = ()
    folder: str = ""
    pushed: set[str] = field(default_factory=set)

    def call_adb(self, *arguments: str, seconds: float = COMMAND_SECONDS) -> str:
        """What `adb -s SERIAL arguments` prints. Raises Unplugged, or RunnerError with adb's own words."""
        try:
            done = subprocess.run(
                [self.adb, "-s", self.serial, *arguments],
                capture_output=True, text=True, errors="replace", timeout=seconds, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Unplugged(f"device {self.serial}: adb {arguments[0]} gave no answer in {seconds:g} s") from None
        if done.returncode != 0:
            words = (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()[-1]
            if re.search(r"not found|no devices|offline|disconnected|closed|unauthorized", words):
                raise Unplugged(f"device {self.serial} is gone ({words}): plug it in and start the same command again")
            raise RunnerError(f"device {self.serial}: adb {arguments[0]} failed: {words}")
        return done.stdout

    def shell(self, command: str, seconds: float = COMMAND_SECONDS) -> tuple[int, str]:
        """Exit status of `command` on the device and what it printed, errors among it."""
        printed = self.call_adb("shell", f"({command}) 2>&1; echo status=$?", seconds=seconds)
        text, _, status = printed.rpartition("status=")
        if not status.strip().isdigit():
            raise Unplugged(f"device {self.serial} is gone: it was cut off in the middle of a command")
        return int(status), text

    def temperature(self) -> float | None:
        """°C of the hottest sensor of the processor, of any sensor if none is named so."""
        readings = [line.rsplit(" ", 1) for line in self.shell(SENSORS)[1].splitlines() if " " in line]
        degrees = [(kind.lower(), int(text) / 1000) for kind, text in readings if text.lstrip("-").isdigit()]
        of_cpu = [value for kind, value in degrees if "cpu" in kind]
        return max(of_cpu or [value for _, value in degrees], default=None)

    def wait_until_cool(self, limit: float) -> float | None:
        deadline = monotonic() + GIVE_UP
        while (now := self.temperature()) is not None and now >= limit:
            if monotonic() > deadline:
                raise RunnerError(f"device {self.serial} is still at {now:.0f} °C: let it cool, or raise --cool")
            sleep(LOOK_AGAIN)
        return now


class AdbRunner(Runner):
    """serials: the devices; by default every one that is attached. cores: those that the library may use there."""

    def __init__(
        self, serials: Sequence[str] | None = None, cores: Sequence[int] | None = None, cool: float = 45.0
    ) -> None:
        adb = shutil.which("adb")
        if adb is None:
            raise RunnerError("adb was not found: install Android's platform tools (Debian package adb)")
        self.cores, self.cool = tuple(cores or ()), cool
        self._work = TemporaryFolder()
        self._program = build_device_program(self._work.path)
        self._phones = [self._prepare(Phone(adb, serial)) for serial in attached(adb, serials)]
        self._free: queue.SimpleQueue[Phone | None] = queue.SimpleQueue()
        for phone in self._phones:
            self._free.put(phone)
        self._lock = threading.Lock()
        self.slots = len(self._phones)

    def _prepare(self, phone: Phone) -> Phone:
        properties = phone.shell("getprop ro.product.cpu.abi; getprop ro.product.model; nproc")[1].splitlines()
        abi, model, count = (line.strip() for line in (*properties, "", "", "")[:3])
        if abi != "arm64-v8a":
            raise RunnerError(f"device {phone.serial} is {abi or 'unknown'}: only arm64-v8a libraries are built")
        phone.name = f"{model or 'Android device'} ({phone.serial})"
        phone.cores = self.cores or tuple(range(int(count) if count.isdigit() else 1))
        phone.folder = f"{FOLDER}/pocketbert-{os.getpid()}"
        phone.shell(f"mkdir -p {phone.folder}")
        phone.call_adb("push", str(self._program), f"{phone.folder}/device", seconds=PUSH_SECONDS)
        phone.shell(f"chmod 755 {phone.folder}/device")
        return phone

    def execute(
        self, library: Path, facts: LibraryFacts, inputs: bytes, threads: int, runs: int, timeout: float
    ) -> Execution:
        lost: Unplugged | None = None
        while (phone := self._take(lost)) is not None:
            try:
                result = self._execute_on(phone, library, facts.name, inputs, threads, runs, timeout)
            except Unplugged as error:
                lost = error
                self._drop(phone)
                continue
            except BaseException:
                self._free.put(phone)
                raise
            self._free.put(phone)
            return result
        raise lost or RunnerError("every device is gone: plug one in and start the same command again")

    def _take(self, lost: Unplugged | None) -> Phone | None:
        with self._lock:
            if not self._phones:
                return None
        phone = self._free.get()
        if phone is None:
            self._free.put(None)  # for the next who waits
        return phone

    def _drop(self, phone: Phone) -> None:
        with self._lock:
            self._phones.remove(phone)
            if not self._phones:
                self._free.put(None)  # nobody may wait for ever

    def _execute_on(
        self, phone: Phone, library: Path, name: str, inputs: bytes, threads: int, runs: int, timeout: float
    ) -> Execution:
        there = phone.folder
        with TemporaryFolder() as folder:
            inputs_file, outputs_file = folder / "inputs", folder / "outputs"
            inputs_file.write_bytes(inputs)
            digest = hashlib.sha256(library.read_bytes()).hexdigest()[:16]
            if digest not in phone.pushed:
                phone.call_adb("push", str(library), f"{there}/{digest}.so", seconds=PUSH_SECONDS)
                phone.pushed.add(digest)
            phone.call_adb("push", str(inputs_file), f"{there}/inputs", seconds=PUSH_SECONDS)
            temperature = phone.wait_until_cool(self.cool)
            governor = phone.shell(f"cat /sys/devices/system/cpu/cpu{phone.cores[0]}/cpufreq/scaling_governor")
            mask = f"taskset {sum(1 << core for core in phone.cores):x} " if self.cores else ""
            times = runs + WARM_UP if runs else 0
            command = f"./device ./{digest}.so {shlex.quote(name)} inputs outputs {threads} {times}"
            status, printed = phone.shell(
                f"cd {there} && {mask}timeout {timeout:g} {command}", seconds=timeout + COMMAND_SECONDS
            )
            if status == 124:
                raise RunFailed(f"hung: no result after {timeout:g} s")
            if status > 128:
                raise RunFailed(f"crashed with signal {status - 128}")
            if status:
                raise RunFailed(f"failed: {(printed.strip().splitlines() or [f'status {status}'])[-1]}")
            phone.call_adb("pull", f"{there}/outputs", str(outputs_file), seconds=PUSH_SECONDS)
            device = Device(phone.name, phone.cores, governor[1].strip() if governor[0] == 0 else "", temperature)
            wall, cpu = parse_times(printed)
            return Execution(wall, outputs_file.read_bytes(), device, cpu)

    def close(self) -> None:
        for phone in self._phones:
            try:
                phone.shell(f"rm -rf {phone.folder}")
            except RunnerError:
                continue  # it is gone, and its files with it
        self._work.close()


def attached(adb: str, wanted: Sequence[str] | None) -> list[str]:
    """Serials of the devices to use. Raises RunnerError if one of `wanted` is absent, or there is none at all."""
    try:
        done = subprocess.run(
            [adb, "devices"], capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunnerError(f"{adb} devices cannot be run: {error}") from error
    states = dict(line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line)
    for serial in wanted or ():
        if states.get(serial, "absent").strip() != "device":
            state = states.get(serial, "absent").strip()
            advice = "allow USB debugging on its screen" if state == "unauthorized" else "see `adb devices`"
            raise RunnerError(f"--serial {serial}: the device is {state}: {advice}")
    serials = list(wanted or (serial for serial, state in states.items() if state.strip() == "device"))
    if not serials:
        unready = "".join(f"; {serial} is {state.strip()}" for serial, state in states.items())
        raise RunnerError(f"no Android device is attached{unready}: plug one in with USB debugging allowed")
    return serials
