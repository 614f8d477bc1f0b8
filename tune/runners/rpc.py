"""Runs libraries on the machines of a rack, through TVM's RPC: a tracker knows the servers, and hands out free ones.

Our libraries do not speak TVM's calling convention, so nothing of them is called through it. Files go up and come back
over the session, and `RUN`, a function that our server registers, runs them there as the local runner would. A server
that dies in the middle loses its connection; the tracker forgets it, and the work goes to another.
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime
from pathlib import Path
from typing import Any

from compile.artifact.manifest import LibraryFacts
from compile.running.runners.base import Device, Execution, RunFailed, Runner, RunnerError

RUN = "pocketbert.run"
# Seconds to wait for a server to be free, and for its connection beyond the run itself.
WAIT_SECONDS = 600.0
CONNECTION_SECONDS = 60.0
ATTEMPTS = 5


def refuse_beyond_loopback(option: str, host: str) -> None:
    """Raises RunnerError unless `host` is this machine alone: TVM's RPC has no authentication, and runs code."""
    try:
        addresses = {ipaddress.ip_address(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError) as error:
        raise RunnerError(f"{option} {host}: there is no such address") from error
    if not all(address.is_loopback for address in addresses):
        raise RunnerError(
            f"{option} {host}: TVM's RPC runs code for whoever reaches it, so it is used on 127.0.0.1 alone; reach "
            "another machine through ssh -R 9190:127.0.0.1:9190 -L 9090:127.0.0.1:9090, as python -m tune.runners.rack "
            "--help says"
        )


def tracker_address(text: str) -> tuple[str, int]:
    """HOST:PORT. Raises RunnerError if it is none, or beyond this machine."""
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise RunnerError(f"--tracker {text}: write HOST:PORT, such as 127.0.0.1:9190")
    refuse_beyond_loopback("--tracker", host)
    return host, int(port)


def check_key(key: str) -> None:
    """Raises RunnerError: TVM's protocol has words between blanks and ends a key at the first colon."""
    if not re.fullmatch(r"[A-Za-z0-9._-]+", key):
        raise RunnerError(f"--key {key!r}: a name of letters, digits, '.', '_' and '-'")


class RpcRunner(Runner):
    """tracker: host:port; key: what the servers registered as; cores: those that a library may use there."""

    def __init__(self, tracker: str, key: str, cores: Sequence[int] | None = None, wait: float = WAIT_SECONDS) -> None:
        check_key(key)
        self.address, self.key, self.cores, self.wait = tracker_address(tracker), key, list(cores or ()), wait
        self.slots = self._servers()

    def _servers(self) -> int:
        """How many servers the tracker knows. Raises RunnerError if there are none, or no tracker."""
        servers = self._connect().summary()["server_info"]
        count = sum(entry["key"] == f"server:{self.key}" for entry in servers)
        if not count:
            keys = ", ".join(sorted({str(entry["key"]).removeprefix("server:") for entry in servers})) or "none at all"
            raise RunnerError(f"the tracker at {self._place} has no server {self.key!r} ({keys}): start one")
        return count

    @property
    def _place(self) -> str:
        return "{}:{}".format(*self.address)

    def _connect(self) -> Any:
        from tvm import rpc

        try:
            socket.create_connection(self.address, CONNECTION_SECONDS).close()  # TVM would try for a minute, and log it
            return rpc.connect_tracker(*self.address)
        except (OSError, RuntimeError) as error:
            raise RunnerError(
                f"no tracker answers at {self._place}: start one with python -m tune.runners.rack tracker"
            ) from error

    def execute(
        self, library: Path, facts: LibraryFacts, inputs: bytes, threads: int, runs: int, timeout: float
    ) -> Execution:
        """Tries another server, up to ATTEMPTS times, where one is lost."""
        about = {"name": facts.name, "target": facts.target, "cpu": facts.cpu}
        order = json.dumps(
            {"library": about, "threads": threads, "runs": runs, "timeout": timeout, "cores": self.cores}
        )
        lost = ""
        for _ in range(ATTEMPTS):
            self._servers()
            try:
                session = self._request(timeout + CONNECTION_SECONDS)
                session.upload(bytearray(library.read_bytes()), "library.so")
                session.upload(bytearray(inputs), "inputs")
                answer = json.loads(str(session.get_function(RUN)(order)))
                outputs = bytes(session.download("outputs")) if "samples_ms" in answer else b""
            except RunnerError:
                raise
            except Exception as error:  # TVM reports a broken connection as whatever it was doing
                lost = (str(error).strip().splitlines() or [type(error).__name__])[-1]
                continue
            if "failed" in answer:
                raise RunFailed(answer["failed"])
            if "refused" in answer:
                raise RunnerError(f"server {self.key!r} at {self._place}: {answer['refused']}")
            device = Device(**{**answer["device"], "cores": tuple(answer["device"]["cores"])})
            return Execution(tuple(answer["samples_ms"]), outputs, device, tuple(answer["cpu_ms"]))
        raise RunnerError(f"servers {self.key!r} at {self._place} were lost {ATTEMPTS} times ({lost}): look at them")

    def _request(self, session_seconds: float) -> Any:
        """A session on a free server. The tracker says nothing while there is none, so the wait ends here."""
        pool = ThreadPoolExecutor(1)
        try:
            waiting = pool.submit(self._connect().request, self.key, session_timeout=session_seconds)
            return waiting.result(self.wait)
        except NotInTime:
            raise RunnerError(f"no server {self.key!r} at {self._place} was free for {self.wait:g} s") from None
        finally:
            pool.shutdown(wait=False)
