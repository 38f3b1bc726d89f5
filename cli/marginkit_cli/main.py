"""The command group, and what becomes of errors."""

from __future__ import annotations

from typing import Any

import click

from marginkit.errors import MarginkitError

from .compare import compare
from .demo import demo
from .evaluate import evaluate
from .files import export, show
from .listing import datasets, methods
from .measure import measure
from .merge import merge
from .output import streams, unread
from .predict import predict
from .tighten import tighten
from .train import train

INTERRUPTED = 130


class Failure(click.ClickException):
    """One sentence on stderr, and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        """What to say, and with which code to exit."""
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))
        vars(self)["exit_code"] = exit_code


class Commands(click.Group):
    """Turns errors into sentences, unless --debug asks for tracebacks."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Runs the command line."""
        with streams():
            return super().main(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the subcommand."""
        try:
            with unread():
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            command = self.commands.get(str(ctx.invoked_subcommand))
            resumes = command is not None and any(p.name == "resume" for p in command.params)
            advice = ": the same command with --resume goes on" if resumes else ""
            raise Failure(f"interrupted; what was finished is on disk{advice}", INTERRUPTED) from None
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            if isinstance(error, MarginkitError):
                raise Failure(str(error), error.exit_code) from error
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            raise Failure(f"unexpected {what} (marginkit --debug shows where)", 1) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--debug", is_flag=True, help="Show a traceback where something fails.")
@click.version_option(package_name="marginkit")
def main(debug: bool) -> None:
    """How far is each input from the decision boundary?

    Train a classifier, measure its margins, compare them with another's.
    """


commands = (train, evaluate, measure, merge, tighten, compare, predict, show, export, demo, methods, datasets)
for command in commands:
    main.add_command(command)
