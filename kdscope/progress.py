"""A progress bar, for what takes long and counts what it has done."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(title: str, total: int, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Give a function to call with how many more are done; it moves a bar on standard error, if that is a terminal.

    Args:
        title: what is done, such as "decoding train".
        total: how many there are.
        shown: whether there is a bar at all; it goes away when all is done.

    >>> with bar("counting", 3, shown=False) as advance:
    ...     advance(3)
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield lambda count: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda count: progress.advance(task, count)
