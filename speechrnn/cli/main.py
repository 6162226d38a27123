"""The `speechrnn` command: its verbs, which are thin, stand in the modules beside this one."""

from __future__ import annotations

import click

import speechrnn
from speechrnn.cli import evaluate, live, recognise, train
from speechrnn.cli.console import run_program

_VERBS = (
    recognise.transcribe,
    recognise.classify,
    recognise.describe,
    live.listen,
    live.devices,
    live.doctor,
    live.serve,
    train.prepare,
    train.train,
    train.export,
    evaluate.evaluate,
    evaluate.score,
)


def main() -> None:
    """Run the command line; the entry point of the installed program."""
    run_program(lambda: cli.main(standalone_mode=False))


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(speechrnn.__version__, prog_name="speechrnn")
@click.pass_context
def cli(context: click.Context) -> None:
    """Recurrent recognition of spoken commands: train, transcribe, listen."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for _verb in _VERBS:
    cli.add_command(_verb)
