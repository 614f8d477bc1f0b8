"""Measure the compiled artifact where it runs, and choose by that: tiles of kernels, and architectures."""

from pocketbert.command import stop_if_hidden

stop_if_hidden("compile", "model", "passes")
