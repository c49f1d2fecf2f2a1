"""`kdscope cache`: list, describe, verify and clean feature caches."""

from pathlib import Path
from typing import Any

import click

EXAMPLES = """\b
  kdscope cache ls runs
  kdscope cache info runs/kd/features/test-none.kdcache
  kdscope cache verify runs
  kdscope cache gc runs --yes
"""

FOLDER = click.Path(path_type=Path)


@click.group(epilog=f"\b\nExamples:\n{EXAMPLES}")
def cache() -> None:
    """List, describe, verify and clean feature caches."""


@cache.command()
@click.argument("folder", type=FOLDER, default=".")
def ls(folder: Path) -> None:
    """List the caches in FOLDER (default: here)."""
    from kdscope.features.plan import size
    from kdscope.features.upkeep import caches, describe

    found = [describe(path) for path in caches(folder)]
    if not found:
        click.echo(f"no feature cache in {folder}")
        return
    table = _table("cache", "model", "view", ">images", ">layers", ">size", "state")
    for one in found:
        state = one.problem or ("complete" if one.complete else f"{one.done:,} of {one.images:,}")
        name = str(one.path.relative_to(folder)) if one.path != folder else one.path.name
        images = f"{one.images:,}" if one.images else ""
        table.add_row(name, one.model, one.view, images, f"{one.layers}", size(one.bytes), state)
    _console().print(table)
    click.echo(f"{len(found)} cache{'s' * (len(found) != 1)}, {size(sum(one.bytes for one in found))}")


@cache.command()
@click.argument("paths", type=FOLDER, nargs=-1, required=True)
def info(paths: tuple[Path, ...]) -> None:
    """Say what the caches at PATHS were made from, and what is in them."""
    for path in paths:
        _describe(path)


def _describe(path: Path) -> None:
    from kdscope.features.cache import FeatureCache
    from kdscope.features.plan import size
    from kdscope.features.shard import Array
    from kdscope.features.upkeep import describe

    opened = FeatureCache(path)
    about = describe(opened.path)
    facts = _table("", "", header=False)
    state = "complete" if about.complete else f"{about.done:,} of {about.images:,} images; extract again to go on"
    rows = {"path": opened.path, "state": state, "key": opened.key, **opened.identity}
    for name, value in {**rows, "classes": ", ".join(opened.classes), "size": size(about.bytes)}.items():
        if value is None:
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        facts.add_row(name, str(value))
    _console().print(facts)
    arrays = _table("array", "shape of an image", "dtype", "reduction", ">an image", ">all")
    for array in map(Array.from_json, opened.manifest["arrays"]):
        shape = "x".join(map(str, array.shape)) or "scalar"
        each, total = size(array.bytes), size(array.bytes * len(opened))
        arrays.add_row(array.name, shape, array.dtype, array.reduction, each, total)
    _console().print(arrays)


@cache.command()
@click.argument("paths", type=FOLDER, nargs=-1, required=True)
@click.pass_context
def verify(context: click.Context, paths: tuple[Path, ...]) -> None:
    """Read all of the caches in PATHS and compare checksums; exit status 1 if one is damaged or incomplete."""
    from kdscope.errors import KDScopeError
    from kdscope.features import upkeep
    from kdscope.features.plan import size

    found = {folder: upkeep.caches(folder) for folder in paths}
    for folder, inside in found.items():
        if not inside:  # to call that whole would be to say that nothing was lost
            raise KDScopeError(f"no feature cache in {folder}")
    damaged = 0
    for path in (cache for inside in found.values() for cache in inside):
        try:
            problems = upkeep.verify(path)
        except KDScopeError as error:  # the others must be looked at, too
            problems = [str(error)]
        damaged += bool(problems)
        for problem in problems:
            click.echo(f"{path}: {problem}")
        if not problems:
            about = upkeep.describe(path)
            click.echo(f"{path}: whole, {about.images:,} images, {size(about.bytes)}")
    if damaged:
        context.exit(1)


@cache.command()
@click.argument("folder", type=FOLDER)
@click.option("--yes", is_flag=True, help="Remove what is listed; without it nothing is removed.")
def gc(folder: Path, yes: bool) -> None:
    """List what is left over in the caches of FOLDER, and with --yes remove it.

    Left over are drafts of killed processes, caches that are not complete, and caches of a run whose weights changed.
    What a running extraction is at work on is never touched.
    """
    from kdscope.features.plan import size
    from kdscope.features.upkeep import leftovers, remove

    found = leftovers(folder)
    for thing in found:
        click.echo(f"{thing.path}: {thing.why} ({size(thing.bytes)})")
    total = size(sum(thing.bytes for thing in found))
    if not found:
        click.echo(f"nothing is left over in {folder}")
    elif yes:
        remove(found)
        click.echo(f"removed {total}")
    else:
        click.echo(f"{total} would be freed; add --yes to remove them")


def _table(*columns: str, header: bool = True) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_header=header, pad_edge=False)
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    return table


def _console() -> Any:
    """At most 100 columns; and as many where the output is not a terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    console.width = min(console.width, 100) if console.is_terminal else 100
    return console
