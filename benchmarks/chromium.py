"""Runs a script in a page of headless Chromium, which serves it a folder and takes what it posts."""

import json
import shutil
import subprocess
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from compile.errors import CompileError

NEEDED = "Chromium (Debian package chromium)"
PAGE = """<!doctype html>
<script>
  const post = (data) => fetch("results", { method: "POST", body: JSON.stringify(data) });
  onerror = (message) => post({ error: String(message) });
  onunhandledrejection = (event) => post({ error: String(event.reason) });
</script>
<script type="module" src="page.mjs"></script>
"""


class _Handler(SimpleHTTPRequestHandler):
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".wasm": "application/wasm", ".js": "text/javascript", ".mjs": "text/javascript",
    }  # fmt: skip

    def __init__(self, results: "Queue[Any]", *args: Any, **options: Any) -> None:
        self.results = results
        super().__init__(*args, **options)

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        self.results.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()


def program() -> str:
    """Chromium's. Raises CompileError without one."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    raise CompileError(f"--browser needs {NEEDED}: install it")


def run_page(folder: Path, timeout: float) -> Any:
    """What `page.mjs` in `folder`, which may ask for all other files there, posts. Raises CompileError if it fails."""
    (folder / "index.html").write_text(PAGE)
    results: Queue[Any] = Queue()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, results, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={profile}",
        ]
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        process = subprocess.Popen([program(), *options, address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            found = results.get(timeout=timeout)
        except Empty:
            raise CompileError(f"Chromium gave no result in {timeout:g} s") from None
        finally:
            process.terminate()
            process.wait()
            server.shutdown()
            server.server_close()
    if "error" in found:
        raise CompileError(f"Chromium: {found['error']}")
    return found
