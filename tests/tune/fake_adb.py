#!/usr/bin/env python3
"""Speaks adb's command line: devices; -s SERIAL push, pull, shell. A folder in $FAKE_ADB_DEVICES is a device.

/data/local/tmp of a device is the folder `tmp` in it, its sensors and properties are the files `sensors` and
`properties`, and `state` is what `adb devices` says of it. An arm64 program that is pushed is run by qemu-aarch64. With
a file `unplug` that holds a number, the device is gone after so many more commands. `log` lists the commands.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

DEVICES = Path(os.environ["FAKE_ADB_DEVICES"])


def fail(words: str) -> int:
    print(f"adb: {words}", file=sys.stderr)
    return 1


def place(device: Path, path: str) -> Path:
    return device / "tmp" / Path(path).relative_to("/data/local/tmp")


def unplugged(device: Path) -> bool:
    left = device / "unplug"
    if not left.exists():
        return False
    count = int(left.read_text())
    left.write_text(str(count - 1))
    return count <= 0


def push(device: Path, local: str, remote: str) -> int:
    to = place(device, remote)
    shutil.copyfile(local, to)
    if to.name == "device":  # the program: this machine cannot run it by itself
        to.rename(to.with_suffix(".arm64")).chmod(0o755)
        to.write_text(f'#!/bin/sh\nexec qemu-aarch64 -cpu cortex-a53 {to.with_suffix(".arm64")} "$@"\n')
    print(f"{local}: 1 file pushed")
    return 0


def shell(device: Path, command: str) -> int:
    command = command.replace("/data/local/tmp", str(device / "tmp"))
    command = command.replace("/sys/class/thermal", str(device / "thermal"))
    command = command.replace("/sys/devices/system/cpu", str(device / "cpu"))
    programs = device / "bin"
    programs.mkdir(exist_ok=True)
    for name, script in (
        ("getprop", f'sed -n "s/^$1=//p" {device}/properties'),
        ("taskset", f'echo "$1" >> {device}/masks; shift; exec "$@"'),
        ("nproc", "echo 8"),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}
    return subprocess.run(["sh", "-c", command], env=environment, check=False).returncode


def main() -> int:
    arguments = sys.argv[1:]
    if arguments == ["devices"]:
        print("List of devices attached")
        for device in sorted(DEVICES.iterdir()):
            state = device / "state"
            print(f"{device.name}\t{state.read_text() if state.exists() else 'device'}")
        return 0
    _, serial, verb, *rest = arguments
    device = DEVICES / serial
    if not device.is_dir() or unplugged(device):
        return fail(f"device '{serial}' not found")
    with (device / "log").open("a") as log:
        print(verb, *rest, file=log)
    if verb == "push":
        return push(device, *rest)
    if verb == "pull":
        shutil.copyfile(place(device, rest[0]), rest[1])
        return 0
    return shell(device, rest[0])


if __name__ == "__main__":
    sys.exit(main())
