"""The `sandq` command: finds the command, runs it, and is the one door where an error becomes an exit code.

`sandq --help` imports click and nothing else: a command's module is loaded when that command is named.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import click

from sandq import __version__, errors

# name: (module, what the command list says about it)
COMMANDS = {
    "supervise": ("sandq.cli.supervise", "Serve queues: claim their jobs and run them in child processes."),
    "add": ("sandq.cli.add", "Add a job, or many, and print the id."),
    "status": ("sandq.cli.inspect", "Show what is in the queues and who serves them."),
    "jobs": ("sandq.cli.inspect", "List the jobs of a queue in one state."),
    "job": ("sandq.cli.inspect", "Show everything about one job."),
    "why": ("sandq.cli.inspect", "Say in English what happened to a job, and what happens next."),
    "events": ("sandq.cli.inspect", "Follow what happens in a queue."),
    "cancel": ("sandq.cli.operate", "End a job, waiting or running."),
    "retry": ("sandq.cli.operate", "Put a finished job, or all failed ones, back to wait."),
    "promote": ("sandq.cli.operate", "Run a delayed job, or all of them, now."),
    "remove": ("sandq.cli.operate", "Delete a job that is not running."),
    "pause": ("sandq.cli.operate", "Start no further job of a queue."),
    "resume": ("sandq.cli.operate", "Go on with a paused queue."),
    "drain": ("sandq.cli.maintain", "Delete the jobs of a queue that wait to run."),
    "clean": ("sandq.cli.maintain", "Delete old jobs of a queue in one state."),
    "obliterate": ("sandq.cli.maintain", "Delete a queue with all its jobs."),
    "schedule": ("sandq.cli.schedule", "Add jobs again and again: every so often, or by a cron pattern."),
    "run": ("sandq.cli.run", "Run one job in a real child, without Redis."),
    "check": ("sandq.cli.run", "Load every configured processor in a real child."),
    "doctor": ("sandq.cli.doctor", "Check this host and its Redis for what sandq relies on."),
    "demo": ("sandq.cli.demo", "See it work: real CPU-heavy jobs, one child killed on the way."),
}

_ENDING = (signal.SIGTERM, signal.SIGHUP)
OK, FAILED, USAGE, UNREACHABLE, FORCED = 0, 1, 2, 3, 130
# Looked through from above: a class stands before the one it inherits from.
EXIT_CODES: tuple[tuple[type[errors.SandqError], int], ...] = (
    (errors.StoreUnavailable, UNREACHABLE),
    (errors.JobNotFound, FAILED),
    (errors.SchedulerNotFound, FAILED),
    (errors.WrongState, FAILED),
    (errors.JobFailed, FAILED),
    (errors.ResultTimeout, FAILED),
    (errors.QueueError, USAGE),
    (errors.ConfigError, USAGE),
    (errors.StartRefused, USAGE),
    (errors.ProcessorError, USAGE),
    (errors.SandqError, FAILED),
)


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports the one that is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """Every command, in the order in which people meet them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command of this name; its module is imported now."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command = getattr(module, cmd_name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module.__name__}.{cmd_name} is not a command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list from the table, so that help imports no command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, help_) in COMMANDS.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sandq")
@click.pass_context
def group(ctx: click.Context) -> None:
    """Run CPU-heavy Python jobs from Redis: no job can cost its lock, take the runtime down, or be lost.

    Redis is named by --redis, SANDQ_REDIS_URL or sandq.toml; with none of these a private server is used.
    """
    if ctx.invoked_subcommand != "supervise":  # it says so itself, in the form of its log
        from sandq.settings import strange_variables

        for sentence in strange_variables(os.environ):
            _complain(sentence)


def main() -> NoReturn:
    """Run the command line that the process was started with, and exit."""
    for number in _ENDING:
        if signal.getsignal(number) is signal.SIG_DFL:  # not where nohup lets it go on
            signal.signal(number, _end)
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()
    sys.exit(code)


def run(args: Sequence[str]) -> int:
    """Run one command line; whatever went wrong is one line on stderr and an exit code."""
    debug = "--debug" in args
    try:
        return group.main(args=list(args), prog_name="sandq", standalone_mode=False) or OK
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else str(error), err=True)
        return USAGE
    except click.ClickException as error:
        _complain(_with_help_hint(error))
        return USAGE
    except (click.Abort, KeyboardInterrupt):
        return FORCED
    except BrokenPipeError:
        _drop_stdout()
        return OK
    except errors.SandqError as error:
        if debug:
            raise
        _complain(str(error))
        return next(code for family, code in EXIT_CODES if isinstance(error, family))
    except Exception as error:  # the last door: a fault of ours is still one line, and names the way to its traceback
        if debug:
            raise
        _complain(
            f"internal error: {type(error).__name__}: {error}; run it again with --debug and report what it prints"
        )
        return FAILED


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    """End as an error would, so that what is open is closed: a private server whose last user this is, for one."""
    for each in _ENDING:
        signal.signal(each, signal.SIG_IGN)  # a terminal that closes sends more than one
    raise SystemExit(128 + number)


def _with_help_hint(error: click.ClickException) -> str:
    text = error.format_message().rstrip(".")
    path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
    return f"{text}; see {path} --help" if path else text


def _complain(text: str) -> None:
    click.echo("sandq: " + " ".join(text.split()), err=True)


def _drop_stdout() -> None:
    """The reader left (`sandq jobs | head`): let the last flush of the interpreter go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
