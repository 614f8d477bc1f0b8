"""`python -m compile.profile ARTIFACT`: where the time of an inference goes (compile/running/profile/)."""

from __future__ import annotations

import sys

from compile.running.profile.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
