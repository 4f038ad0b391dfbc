"""`python -m fourdgen.cli`: the command line without its script."""

from fourdgen.cli import main

main()
