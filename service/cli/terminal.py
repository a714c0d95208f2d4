"""How commands speak: results on standard output, everything else on standard error, errors as one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from typer.core import TyperGroup

from service.errors import StorageError, VultusError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

Cell = str | int | float | None


class Words(TyperGroup):
    """The group of all commands: an error ends a command with one line and exit code 1, Ctrl-C without a word."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was typed."""
        try:
            return super().invoke(ctx)
        except VultusError as error:
            complain(error.code, error.detail)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            complain(StorageError.code, f"{where}{error.strerror or error}")
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        raise typer.Exit(1)


def complain(code: str, detail: str) -> None:
    """Print an error as one line."""
    print(f"error [{code}]: {' '.join(detail.split())}", file=sys.stderr)  # noqa: T201 - what a command is for


def note(text: str) -> None:
    """Tell the person at the terminal something that is no result."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[dim]{escape(text)}[/dim]")


def say(text: str) -> None:
    """Print a line of the result; rich markup allowed."""
    Console(highlight=False, soft_wrap=True).print(text)


def print_json(result: object) -> None:
    """Print a result for scripts."""
    print(json.dumps(result, indent=2, ensure_ascii=False, default=str))  # noqa: T201 - what a command is for


def print_table(columns: tuple[str, ...], rows: Sequence[tuple[Cell, ...]], *, empty: str) -> None:
    """Print a table for people; numbers are set to the right, markup in cells is text.

    Args:
        columns: the headings.
        rows: a cell a column each; None is shown as nothing.
        empty: said instead of a table without rows.
    """
    console = Console(highlight=False)
    if not rows:
        console.print(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, column in enumerate(columns):
        numbers = all(isinstance(row[place], int | float | None) for row in rows)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else escape(str(cell)) for cell in row))
    console.print(table)


def progress(*, counted: bool = True) -> Progress:
    """A progress display on standard error that leaves nothing behind."""
    columns = [SpinnerColumn(), TextColumn("{task.description}")]
    counting = [BarColumn(), MofNCompleteColumn()] if counted else []
    console = Console(stderr=True)
    return Progress(*columns, *counting, console=console, transient=True, disable=not console.is_terminal)


def rated_progress() -> Progress:
    """The same for long work: tasks are updated with `rate` and `left`, both texts."""
    columns = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    facts = [TextColumn("{task.fields[rate]}"), TextColumn("{task.fields[left]}")]
    console = Console(stderr=True)
    return Progress(*columns, *facts, console=console, transient=True, disable=not console.is_terminal)
