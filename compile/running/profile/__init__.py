"""Where the time of an inference goes: `python -m compile.profile ARTIFACT`."""
