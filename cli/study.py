"""`kdscope study`: a paper as one command: train what is missing, ask, and write tables and figures."""

import time
from pathlib import Path
from typing import Any

import click

EXAMPLES = """\b
  kdscope study plan stanton2021 --scale cpu
  kdscope study run quickstart --scale smoke
  kdscope study run my-study.yaml --only 'kd*' --jobs 2
  kdscope study status quickstart --scale smoke --watch
"""
STYLES = {"done": "green", "running": "cyan", "failed": "red", "waiting": "yellow", "stopped": "yellow", "to do": ""}
WIDTH = 100  # where there is no terminal
SHOWN = 60  # rows of a live table

_common = [
    click.argument("name", metavar="NAME_OR_FILE"),
    click.option("--scale", help="smoke, cpu, paper, or another one of the file [the first]."),
    click.option(
        "--root", type=click.Path(path_type=Path), default="studies", show_default=True, help="For all studies."
    ),
    click.option("--only", help="Names of runs, or globs such as 'kd-*-seed0', with commas; and what they learn from."),
]


def common(command: Any) -> Any:
    """The options that all three verbs have."""
    for option in reversed(_common):
        command = option(command)
    return command


@click.group(epilog=f"\b\nExamples:\n{EXAMPLES}")
def study() -> None:
    """Run a study: a paper as a YAML file (kdscope list studies, or your own)."""


@study.command()
@common
@click.option("--backend", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@click.option("--ray-address", help="Of a cluster, such as auto or ray://HOST:10001 [one on this machine].")
@click.option("--jobs", type=int, help="Trainings at a time, one thread each [one a core; one on a GPU].")
@click.option("--yes", is_flag=True, help="Train more than 250 runs.")
@click.option("--report/--no-report", default=True, help="Write report.html of the study [yes].")
def run(
    name: str, scale: str | None, root: Path, only: str | None, backend: str, ray_address: str | None,
    jobs: int | None, yes: bool, report: bool,
) -> int:  # fmt: skip
    """Train what is missing, ask, and write tables, figures and a report. Started again, it goes on where it stopped.

    Exit status 1 where a run or an analysis failed: its log is in ROOT/STUDY/logs.
    """
    from kdscope.errors import KDScopeError
    from kdscope.study.conduct import conduct
    from kdscope.study.schema import load_study

    train = None
    if backend == "ray":
        from kdscope.study.ray_backend import on_ray

        train = on_ray(ray_address, jobs)
    elif ray_address is not None:
        raise KDScopeError("--ray-address is for --backend ray")
    loaded = load_study(name)
    done = conduct(loaded, root, scale, jobs=jobs, only=_patterns(only), yes=yes, train=train)
    click.echo((done.place.folder / "table.md").read_text())
    for answer in done.answers:
        click.echo(f"{answer.folder}: {answer.error or 'table and figures'}")
    if report:
        from kdscope.report.write import write_report

        # What the analyses left on disk is all that it reads: seconds, however large the study.
        click.echo(f"{write_report(done.place.folder, extract=False)}: report")
    missing = [f"{cell}: {state.state}" for cell, state in done.states.items() if state.state != "done"]
    click.echo(f"{len(done.states) - len(missing)} of {len(done.states)} runs are done")
    return 1 if done.failed else 0


@study.command()
@common
@click.option("--watch", is_flag=True, help="Look again every two seconds, until Ctrl-C or until all is done.")
def status(name: str, scale: str | None, root: Path, only: str | None, watch: bool) -> None:
    """Say which runs are done, running, failed (and why) or waiting, and how long the rest will take."""
    from rich.console import Console
    from rich.live import Live

    from kdscope.study.cells import cells
    from kdscope.study.conduct import place_of, select
    from kdscope.study.schema import load_study

    loaded = load_study(name)
    everything = cells(loaded, scale)
    known, wanted = {cell.name: cell for cell in everything}, select(everything, _patterns(only))
    place = place_of(loaded, root, scale)
    console = Console()
    console.width = console.width if console.is_terminal else WIDTH
    if not watch:
        console.print(_table(wanted, known, place, len(wanted))[0])
        return
    with Live(console=console) as live:
        while True:
            table, left = _table(wanted, known, place, SHOWN)
            live.update(table, refresh=True)
            if not left:
                return
            time.sleep(2)


@study.command()
@common
@click.option("--jobs", type=int, default=1, show_default=True, help="Trainings at a time.")
@click.option("--time/--no-time", "timed", default=True, help="Whether to measure a step of each kind of run.")
def plan(name: str, scale: str | None, root: Path, only: str | None, jobs: int, timed: bool) -> None:
    """Say what would run, and for how long, from the time of one step of each kind of run on this machine."""
    from rich.console import Console

    from kdscope.study.cells import cells
    from kdscope.study.conduct import place_of, select
    from kdscope.study.plan import plan_of
    from kdscope.study.schema import load_study

    loaded = load_study(name)
    everything = cells(loaded, scale)
    known, wanted = {cell.name: cell for cell in everything}, select(everything, _patterns(only))
    rows = plan_of(wanted, known, place_of(loaded, root, scale), timed)
    console = Console()
    console.width = console.width if console.is_terminal else WIDTH
    table = _grid("runs", "to train", "epochs", "s/step", "hours", "key")
    for row in rows:
        hours = "" if row.hours is None else f"{row.hours:.2g}"
        step = "" if row.step is None else f"{row.step:.3f}"
        table.add_row(row.group, f"{row.missing} of {row.runs}", str(row.epochs), step, hours, row.key)
    console.print(table)
    for row in rows:
        if row.error:
            click.echo(f"{row.group} was not timed: {row.error}")
    hours = [row.hours for row in rows if row.hours is not None]
    missing = sum(row.missing for row in rows)
    told = f"{missing} runs to train"
    if hours:
        told += (
            f": {sum(hours):.2g} hours of this machine's {rows[0].device}, {sum(hours) / jobs:.2g} with --jobs {jobs}"
        )
    console.print(told)


def _patterns(only: str | None) -> list[str]:
    return [pattern.strip() for pattern in only.split(",") if pattern.strip()] if only else []


def _grid(*columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in columns:  # a name stays whole, for it may be copied; what is said beside it has lines
        table.add_column(column, overflow="fold", no_wrap=column == columns[0])
    return table


def _table(wanted: Any, known: Any, place: Any, rows: int) -> tuple[Any, int]:
    """The table of the runs, those that are under way first where not all have room, and how many are left."""
    from rich.console import Group
    from rich.markup import escape

    from kdscope.study.place import STATES, remaining

    states = {cell.name: place.state(cell, known) for cell in wanted}
    order = ("running", "failed", "stopped", "waiting", "to do", "done")
    shown = wanted if len(wanted) <= rows else sorted(wanted, key=lambda c: order.index(states[c.name].state))[:rows]
    table = _grid("run", "state", "epoch", "test %", "seconds", "")
    for cell in shown:
        state = states[cell.name]
        style = STYLES[state.state]
        score = "" if state.score is None else f"{100 * state.score:.2f}"
        table.add_row(
            cell.name, f"[{style}]{state.state}[/]" if style else state.state,
            f"{state.epochs}/{cell.config.epochs}", score, f"{state.seconds:.0f}", escape(state.error),
        )  # fmt: skip
    counts = {name: sum(state.state == name for state in states.values()) for name in STATES}
    line = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    seconds = remaining(wanted, states)
    if seconds:
        at_once = max(1, counts["running"])
        line += f"; about {seconds / at_once / 60:.1f} minutes to go, {at_once} at a time"
    return Group(table, line), sum(counts[name] for name in ("running", "waiting", "stopped", "to do"))
