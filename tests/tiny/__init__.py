"""A pipeline of three tiny but real stages, for the tests of the run folder. `python -m tests.tiny` runs it."""
