"""What devices measured by themselves, with the program that `python -m compile --package benchmark` makes."""
