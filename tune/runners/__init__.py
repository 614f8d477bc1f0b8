"""Where an artifact runs: one file each, all with the interface of `tune.runners.base.Runner`."""
