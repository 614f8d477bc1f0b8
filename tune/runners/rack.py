"""The other end of the rpc runner: a tracker, and a server on each machine that libraries run on.

  python -m tune.runners.rack tracker
  python -m tune.runners.rack server --tracker 127.0.0.1:9190

TVM's RPC asks nobody who they are, and a server runs the code that it is sent. So both listen on this machine alone;
for another machine, an SSH tunnel says who may. On the workstation start the tracker, then for each machine, with a
port of its own (9090, 9091, …), the tunnel with the server inside:

  python -m tune.runners.rack tracker
  ssh -R 9190:127.0.0.1:9190 -L 9090:127.0.0.1:9090 USER@MACHINE \\
      python -m tune.runners.rack server --port 9090

and `python -m tune … --runner rpc` on the workstation finds it. Whoever has an account on either machine can reach what
listens there: use machines whose users you trust. A --key is a name by which servers are found, told to anyone who asks
the tracker: it is no password.
"""

from __future__ import annotations

import argparse
import atexit
import json
import signal
import socket
import sys
from pathlib import Path

from compile.artifact.manifest import LibraryFacts
from compile.errors import CompileError
from compile.linking.link import build_runner
from compile.running.runners.base import RunFailed
from compile.running.runners.local import LocalRunner
from compile.targets import host_target
from pocketbert.command import Parser, exit_status
from pocketbert.temporary import TemporaryFolder
from tune.errors import TuneError
from tune.runners.rpc import RUN, check_key, refuse_beyond_loopback, tracker_address

DEFAULT_KEY = "pocketbert"
PORTS = {"tracker": 9190, "server": 9090}


def register() -> None:
    """Called by TVM in the server's process, before it forks one for each session: make `RUN` known there."""
    import tvm

    folder = TemporaryFolder()
    atexit.register(folder.close)  # and keeps it until then
    program = build_runner(host_target(), folder.path)
    tvm.register_global_func(RUN, lambda order: run_order(str(order), program), override=True)


def run_order(order: str, program: Path) -> str:
    """Run `library.so` on `inputs`, both in the session's folder, and leave `outputs` there. The answer is JSON."""
    import tvm

    place = tvm.get_global_func("tvm.rpc.server.workpath")
    library, inputs, outputs = (Path(str(place(name))) for name in ("library.so", "inputs", "outputs"))
    asked = json.loads(order)
    try:
        with LocalRunner(asked["cores"] or None, program) as runner:
            numbers = (asked["threads"], asked["runs"], asked["timeout"])
            result = runner.execute(
                library, LibraryFacts(**asked["library"], inputs=(), outputs=()), inputs.read_bytes(), *numbers
            )
    except RunFailed as error:
        return json.dumps({"failed": str(error)})
    except (TuneError, CompileError) as error:
        return json.dumps({"refused": str(error)})
    outputs.write_bytes(result.outputs)
    return json.dumps({"samples_ms": result.samples_ms, "cpu_ms": result.cpu_ms, "device": vars(result.device)})


def free_port(host: str, first: int, count: int) -> int:
    """The first of `count` ports on which nothing listens. Raises TuneError if there is none."""
    reason = "no such port"
    for port in range(first, min(first + count, 65536)):
        try:
            with socket.create_server((host, port), family=socket.getaddrinfo(host, port)[0][0]):
                return port
        except OSError as error:
            reason = error.strerror or str(error)
    raise TuneError(f"--port {first}: {reason}; give another")


def main() -> int:
    parser = Parser(prog="python -m tune.runners.rack", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("what", choices=("tracker", "server"))
    parser.add_argument("--host", default="127.0.0.1", help="address of this machine alone (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="default: the first free from 9190 for a tracker, 9090 for a server")
    parser.add_argument("--tracker", default="127.0.0.1:9190", metavar="HOST:PORT", help="a server's tracker")
    parser.add_argument("--key", default=DEFAULT_KEY, help=f"what a server is found by (default: {DEFAULT_KEY})")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return exit_status(serve, parser.parse_args(), "nothing was lost")


def serve(args: argparse.Namespace) -> None:
    """Listen until asked to end. Raises TuneError for an address beyond this machine, a key or a port in use."""
    refuse_beyond_loopback("--host", args.host)
    tracker = tracker_address(args.tracker)
    check_key(args.key)
    # A request to end must end TVM's processes, too: they go with this one's normal exit.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from tvm import rpc
    from tvm.rpc.tracker import Tracker

    port = free_port(args.host, args.port or PORTS[args.what], 1 if args.port else 10)
    ports = {"port": port, "port_end": port + 1, "silent": True}
    if args.what == "tracker":
        began = Tracker(args.host, **ports)
    else:
        began = rpc.Server(args.host, tracker_addr=tracker, key=args.key, server_init_callback=register, **ports)
    print(f"{args.what} at {args.host}:{began.port}", flush=True)
    try:
        signal.pause()
    except (KeyboardInterrupt, SystemExit):
        began.terminate()


if __name__ == "__main__":
    sys.exit(main())
