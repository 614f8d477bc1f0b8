"""The subcommands that train and measure, one file each; `table.py` lists them."""
