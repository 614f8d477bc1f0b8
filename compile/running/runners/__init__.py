"""Where a library runs, a file each, all with the interface of `base.Runner`; phones and racks are in tune/runners."""
