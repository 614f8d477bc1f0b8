"""The other end of the rpc runner: a tracker, and a server on each machine that libraries run on.

  python -m tune.runners.rack tracker
  python -m tune.runners.rack server --tracker 127.0.0.1:9190

Both listen on this machine alone unless --host says otherwise. A server runs what it is sent: beyond this machine it
wants a --key of your own, and belongs in a network that you trust.
"""

from __future__ import annotations

import argparse
import atexit
import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from compile.artifact.manifest import LibraryFacts
from compile.errors import CompileError
from compile.linking.link import build_runner
from compile.running.runners.base import RunFailed
from compile.running.runners.local import LocalRunner
from compile.targets import host_target
from pocketbert.command import Parser
from tune.errors import TuneError
from tune.runners.rpc import RUN

LOOPBACK = ("127.0.0.1", "localhost", "::1")
DEFAULT_KEY = "pocketbert"


def register() -> None:
    """Called by TVM in the server's process, before it forks one for each session: make `RUN` known there."""
    import tvm

    folder = Path(tempfile.mkdtemp(prefix="pocketbert-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    program = build_runner(host_target(), folder)
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
    return json.dumps({"samples_ms": result.samples_ms, "device": vars(result.device)})


def main() -> int:
    parser = Parser(prog="python -m tune.runners.rack", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("what", choices=("tracker", "server"))
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="first port to try (default: 9190 for a tracker, 9090 for a server)")
    parser.add_argument("--tracker", default="127.0.0.1:9190", metavar="HOST:PORT", help="a server's tracker")
    parser.add_argument("--key", default=DEFAULT_KEY, help=f"what a server is registered as (default: {DEFAULT_KEY})")
    args = parser.parse_args()
    host, _, port = args.tracker.rpartition(":")
    if not host or not port.isdigit():
        parser.error(f"--tracker {args.tracker}: write HOST:PORT, such as 127.0.0.1:9190")
    if args.what == "server" and args.host not in LOOPBACK and args.key == DEFAULT_KEY:
        parser.error(f"--host {args.host} lets others run code here: give a --key that is not the default")
    # A request to end must end TVM's processes, too: they go with this one's normal exit.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from tvm import rpc
    from tvm.rpc.tracker import Tracker

    if args.what == "tracker":
        began = Tracker(host=args.host, port=args.port or 9190, port_end=(args.port or 9190) + 10, silent=True)
    else:
        began = rpc.Server(
            args.host,
            port=args.port or 9090,
            port_end=(args.port or 9090) + 100,
            tracker_addr=(host, int(port)),
            key=args.key,
            silent=True,
            server_init_callback=register,
        )
    print(f"{args.what} at {args.host}:{began.port}", flush=True)
    try:
        signal.pause()
    except (KeyboardInterrupt, SystemExit):
        began.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
