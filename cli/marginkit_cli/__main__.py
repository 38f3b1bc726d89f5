"""`python -m marginkit_cli`, for launchers that take a module."""

from .main import main

main(prog_name="marginkit")
