"""`yard`: the commands, and the one place where an error becomes a sentence and an exit code.

Exit codes: 0 done, 1 failed check or SLA FAIL, 2 usage, 3 INCONCLUSIVE, 4 the server never became ready, 130
interrupted.
"""

import signal
import sys
from importlib import import_module

import click

from ensembles.errors import YardError, near_miss

# Each command is imported when it is called: `yard engines` must not pay for Locust, nor `yard lint` for numpy.
COMMANDS = {
    "engines": "yard.engines",
    "convert": "yard.convert",
    "fit": "yard.fit",
    "repository": "yard.repository",
    "lint": "yard.lint",
    "serve": "yard.serve",
    "embed": "yard.embed",
    "ask": "yard.ask",
    "loadtest": "yard.loadtest",
    "verdict": "yard.verdict",
    "capacity": "yard.capacity",
    "compare": "yard.compare",
    "demo": "yard.demo",
    "doctor": "yard.doctor",
    "init": "yard.init",
}
INTERRUPTED = 130


class Commands(click.Group):
    """The commands of COMMANDS, each in its own module under its own name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(COMMANDS[cmd_name]), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the near miss of a mistyped command."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            known = ", ".join(COMMANDS)
            ctx.fail(f"no command '{args[0]}'; known are {known}{near_miss(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def yard() -> None:
    """From a model checkpoint to a Triton server that has proved its SLA.

    \b
    Example: yard engines && yard repository && yard serve
    """


def _interrupted() -> int:
    click.echo("interrupted; nothing half-made was left", err=True)
    return INTERRUPTED


def main() -> None:
    """Run `yard`; the console script's entry point."""
    # A service manager ends with SIGTERM: it unwinds like Ctrl-C, so that nothing is left running.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = yard.main(standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        code = _interrupted()
    except ImportError as error:
        # A compiled module that is interrupted while it sets itself up makes this of it.
        if not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        code = _interrupted()
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except YardError as error:
        click.echo(f"error: {error}", err=True)
        code = error.exit_code
    except BrokenPipeError:
        code = 1
    sys.exit(code if isinstance(code, int) else 0)
