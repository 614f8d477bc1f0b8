"""Runs pytest, [seconds, arguments] a line of JSON, each in a process of its own that has the large libraries loaded.

Answers each with the first test that failed or crashed, "" if none did. What takes more than those seconds is killed:
"hung in" and the test.
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
    """A plugin that writes which test failed first, and before that which one runs."""

    def __init__(self, file: int) -> None:
        self.file, self.failed = file, False

    def write(self, test: str) -> None:
        if not self.failed:
            os.ftruncate(self.file, 0)
            os.pwrite(self.file, test.encode(), 0)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.write(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.failed:
            self.write(report.nodeid)
            self.failed = True

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.pytest_runtest_logreport(report)


def run(seconds: float, arguments: list[str]) -> str:
    test = os.memfd_create("test")
    child = os.fork()
    if child == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        silent = os.open(os.devnull, os.O_RDWR)
        for file in range(3):
            os.dup2(silent, file)
        status = 1
        with suppress(BaseException):
            status = int(pytest.main(arguments, [Failure(test)]))
        os._exit(status)
    end = time.monotonic() + seconds
    try:
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < end:
            time.sleep(0.05)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    if ended[0] == 0:
        os.waitpid(child, 0)
    with os.fdopen(test, "rb") as file:
        file.seek(0)
        test, status = file.read().decode(), os.waitstatus_to_exitcode(ended[1])
    if ended[0] == 0:
        return f"hung in {test}"
    if status in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        return ""
    return test or f"ended with status {status}"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    for name in LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(run(*json.loads(line))), flush=True)
