"""Where an artifact runs: one file each, all with the interface of `compile.running.runners.base.Runner`."""
