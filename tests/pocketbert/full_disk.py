"""A command, again and again, on a disk that has a little more room each time: what it said and what it left.

full_disk.py MODULE DISK SIZES ARGUMENTS...      run by test_full_disk.py where DISK is a tmpfs, and TMPDIR in it
"""

import contextlib
import io
import json
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any


def main(module: str, disk: str, sizes: str, *arguments: str) -> None:
    command: Any = import_module(module)
    place, temporary = Path(disk) / "place", Path(disk) / "tmp"
    if module.startswith("compile"):  # the disk fills up after a build has asked how full it is
        import_module("compile.pipeline").require_space = lambda *_: None
    for size in map(int, sizes.split(",")):
        subprocess.run(["mount", "-o", f"remount,size={size}k", disk], check=True)
        for folder in (place, temporary):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            status = command.main(list(arguments))
        left = [[str(p.relative_to(disk)) for p in sorted(f.rglob("*")) if p.is_file()] for f in (place, temporary)]
        print(json.dumps({"size": size, "status": status, "said": said.getvalue(), "left": left}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
