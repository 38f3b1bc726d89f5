"""`python -m marginkit` is the command `marginkit`."""

from marginkit_cli.main import main

main(prog_name="marginkit")
