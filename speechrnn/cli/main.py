"""The `speechrnn` command: its verbs, which are thin, stand in the modules beside this one."""

from __future__ import annotations

import itertools
import sys
import warnings

import click

import speechrnn
from speechrnn.cli import bulk, evaluate, live, recognise, serve, train, words
from speechrnn.cli.console import prepare_streams, run_program

VERBS = {
    "Recognise": (recognise.transcribe, recognise.classify, bulk.bulk, recognise.describe),
    "Live": (live.listen, live.devices, live.doctor),
    "Serve": (serve.serve, serve.wyoming),
    "Own words": (words.record, words.teach),
    "Train": (train.prepare, train.train),
    "Model files": (train.export, train.quantize, train.push),
    "Evaluate": (evaluate.evaluate, evaluate.score, evaluate.calibrate),
}


class _Topics(click.Group):
    """A group whose help lists the verbs by topic."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.commands))
        for topic, verbs in VERBS.items():
            with formatter.section(topic):
                formatter.write_dl([(str(verb.name).ljust(width), verb.short_help or "") for verb in verbs])


def main() -> None:
    """Run the command line; the entry point of the installed program."""
    prepare_streams()
    if not sys.warnoptions:  # warnings of libraries are shown to those who ask for them
        warnings.simplefilter("ignore")
    run_program(lambda: cli.main(prog_name="speechrnn", standalone_mode=False))


@click.group(
    cls=_Topics,
    invoke_without_command=True,
    subcommand_metavar="VERB [ARGUMENTS]...",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="speechrnn VERB --help explains each.",
)
@click.version_option(speechrnn.__version__, prog_name="speechrnn")
@click.pass_context
def cli(context: click.Context) -> None:
    """Recognise spoken commands with recurrent neural networks."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for _verb in itertools.chain(*VERBS.values()):
    cli.add_command(_verb)
