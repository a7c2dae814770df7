"""What a long-running command says while it runs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from tqdm import tqdm


class Report(Protocol):
    """Tells the console how far a task is."""

    def __call__(self, note: str, *, images: int) -> None:
        """Counts one step over so many images, and shows a note such as the loss."""
        ...


@contextmanager
def steps(title: str, total: int, *, done: int = 0, show: bool = True) -> Iterator[Report]:
    """A progress bar with images/s and time left; a plain closing line where output is no terminal.

    Args:
        title: in front of the bar.
        total: number of steps.
        done: steps that an earlier process has done.
        show: False for processes that stay silent.
    """
    live = sys.stderr.isatty()
    seen = 0
    last = ""
    form = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
    bar = tqdm(
        total=total, initial=done, desc=title, disable=not (show and live), leave=False, bar_format=form
    )

    def report(note: str, *, images: int) -> None:
        nonlocal seen, last
        seen += images
        elapsed = bar.format_dict["elapsed"] if live else 0
        rate = f", {seen / elapsed:.0f} images/s" if elapsed else ""
        last = note
        bar.set_postfix_str(note + rate, refresh=False)
        bar.update()

    with bar:
        yield report
    if show and last:
        print(f"{title}: {last}", flush=True)
