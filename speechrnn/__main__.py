"""`python -m speechrnn`: the command line, where the `speechrnn` script is not on the path."""

from speechrnn.cli.main import main

main()
