"""Measure the compiled artifact where it runs, and choose by that: tiles of kernels, and architectures."""
