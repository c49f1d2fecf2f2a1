"""`kdscope`: finds the verb, and turns errors into one line on standard error with exit status 2."""

import importlib
import logging
import os
import sys

import click

from kdscope import __version__
from kdscope.errors import KDScopeError, unknown

# Written here, so that `kdscope --help` need not import a single verb.
VERBS = {
    "train": "Train a network, alone or from teachers.",
    "calibrate": "Measure the weights of a distillation of detectors before it is trained.",
    "compare": "Train methods with the same seeds and teacher, and print one table.",
    "study": "Run, plan or watch a study: a paper as a YAML file.",
    "extract": "Write what a network says of its images to a feature cache.",
    "export": "Write the trained student alone as ONNX, TorchScript, .pt2 or safetensors.",
    "cache": "List, describe, verify and clean feature caches.",
    "analyze": "Measure from caches: tables and figures with intervals and controls.",
    "figures": "Draw the figures of an analysis again, from its table alone.",
    "report": "Write a run or a study as one page with charts and images.",
    "list": "List methods, models, datasets, analyses and studies.",
    "explain": "Print a method's equation, settings, layers and cost.",
    "doctor": "Say which numbers can be trusted, on your own networks and images.",
    "demo": "Train, extract, analyse and draw on the embedded digits.",
}


class Verbs(click.Group):
    """A group whose commands are imported when they are called: `kdscope.cli.VERB` holds a command of that name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        if name not in VERBS:
            raise unknown("command", name, VERBS)
        return getattr(importlib.import_module(f"kdscope.cli.{name}"), name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kdscope")
def cli() -> None:
    """Train knowledge-distillation methods and measure why they work."""


def main() -> None:
    """The console script. 0: done; 1: a check found damage; 2: bad input; 130: stopped, and can be resumed."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("kdscope").setLevel(logging.INFO)
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except click.exceptions.Abort as abort:  # click's word for KeyboardInterrupt, whose message says how to go on
        click.echo(f"kdscope: {str(abort.__cause__ or '') or 'stopped'}", err=True)
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        click.echo(f"kdscope: {error.format_message()}", err=True)
        sys.exit(2)
    except KDScopeError as error:
        click.echo(f"kdscope: {' '.join(str(error).split())}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
