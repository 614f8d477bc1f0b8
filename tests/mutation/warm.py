"""Runs pytest, [seconds, arguments] a line of JSON, each in a process of its own that has the large libraries loaded.

Answers each with the first test that failed, "" if none did. What takes more than those seconds is killed and "hung".
"""

import importlib
import json
import os
import signal
import sys
import time
from contextlib import suppress

import pytest

LIBRARIES = ("hypothesis", "numpy", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "onnxsim", "optuna", "torch", "tvm")


class Failure:
    """A plugin that writes which test failed first."""

    def __init__(self, file: int) -> None:
        self.file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            os.write(self.file, report.nodeid.encode())

    pytest_collectreport = pytest_runtest_logreport


def run(seconds: float, arguments: list[str]) -> str:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        silent = os.open(os.devnull, os.O_RDWR)
        for file in range(3):
            os.dup2(silent, file)
        status = 1
        with suppress(BaseException):
            status = int(pytest.main(arguments, [Failure(writing)]))
        os._exit(status)
    os.close(writing)
    end = time.monotonic() + seconds
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < end:
        time.sleep(0.05)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    with os.fdopen(reading, "rb") as pipe:
        test = pipe.read().decode()
    if ended[0] == 0:
        os.waitpid(child, 0)
        return "hung"
    return test or (f"ended with status {os.waitstatus_to_exitcode(ended[1])}" if ended[1] else "")


if __name__ == "__main__":
    for name in LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(run(*json.loads(line))), flush=True)
