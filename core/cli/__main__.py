"""`python -m conform.core.cli` and `torchrun -m conform.core.cli` are the command `conform`."""

from conform.core.cli.main import main

main()
