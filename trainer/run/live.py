"""Live: how a run looks while it trains: a table that updates itself on a terminal, plain lines when piped."""

import math
import time
from collections.abc import Mapping
from typing import Protocol

from conform.core.cli.console import console

__all__ = ["LiveView", "PlainView", "SilentView", "View", "view_for_terminal"]

Values = Mapping[str, float]
"""What was measured, by name."""


class View(Protocol):
    """Where a run shows its progress; all processes but the first have one that shows nothing."""

    def begin(self, title: str, step: int, steps: int) -> None:
        """The run starts, or goes on, at that step."""
        ...

    def step(self, step: int, values: Values) -> None:
        """A step is done: loss, grad_norm, lr, tokens_per_second, mfu."""
        ...

    def held_out(self, step: int, values: Values) -> None:
        """An evaluation is done: loss, perplexity, bits_per_byte, unigram_perplexity."""
        ...

    def note(self, text: str) -> None:
        """Something worth a line: a checkpoint, a warning."""
        ...

    def end(self) -> None:
        """Nothing more will be shown."""
        ...


class SilentView:
    """Shows nothing: for all processes but the first."""

    def begin(self, title: str, step: int, steps: int) -> None:
        """Nothing."""

    def step(self, step: int, values: Values) -> None:
        """Nothing."""

    def held_out(self, step: int, values: Values) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


class PlainView:
    """One line for every `every` steps and for each event."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._console = console(stderr=True)
        self._eta = _Eta()
        self._steps = 0

    def begin(self, title: str, step: int, steps: int) -> None:
        """Print the title."""
        self._steps = steps
        self._eta.begin(step, steps)
        self._line(title)

    def step(self, step: int, values: Values) -> None:
        """Print every `every` steps, the first one and the last one."""
        if step % self._every == 0 or step in (1, self._steps):
            self._line(
                f"step {step}/{self._steps}  loss {values['loss']:.4f}  grad norm {values['grad_norm']:.3f}  "
                f"lr {values['lr']:.2e}  {values['tokens_per_second']:,.0f} tokens/s  "
                f"MFU {values['mfu']:.0%}  ETA {self._eta.after(step)}"
            )

    def held_out(self, step: int, values: Values) -> None:
        """Print the line."""
        self._line(_held_out_line(step, values))

    def note(self, text: str) -> None:
        """Print the line."""
        self._line(text)

    def end(self) -> None:
        """Nothing is left to print."""

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False)


class LiveView:
    """A table of the newest values above a progress bar; events scroll by above both."""

    def __init__(self) -> None:
        from rich.live import Live

        self._console = console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=4, transient=False)
        self._eta = _Eta()
        self._title, self._steps = "", 0
        self._rows: dict[str, str] = {}

    def begin(self, title: str, step: int, steps: int) -> None:
        """Open the display."""
        self._title, self._steps = title, steps
        self._eta.begin(step, steps)
        self._live.start()

    def step(self, step: int, values: Values) -> None:
        """Update the table."""
        self._rows |= {
            "step": f"{step} of {self._steps}",
            "loss": f"{values['loss']:.4f}",
            "perplexity": f"{math.exp(min(values['loss'], 700)):.2f}",
            "gradient norm": f"{values['grad_norm']:.3f}",
            "learning rate": f"{values['lr']:.2e}",
            "tokens/s": f"{values['tokens_per_second']:,.0f}",
            "MFU": f"{values['mfu']:.1%}",
            "ETA": self._eta.after(step),
        }
        self._draw(step)

    def held_out(self, step: int, values: Values) -> None:
        """Show the numbers until the next evaluation."""
        self._rows["held out"] = _held_out_line(step, values)
        self._draw(step)

    def note(self, text: str) -> None:
        """Print the line above the display."""
        self._console.print(text, markup=False)

    def end(self) -> None:
        """Leave the last table on the screen."""
        self._live.stop()

    def _draw(self, step: int) -> None:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table(box=None, show_header=False, pad_edge=False, title=self._title, title_justify="left")
        for name, value in self._rows.items():
            table.add_row(name, value)
        self._live.update(Group(table, ProgressBar(total=self._steps, completed=step, width=60)))


def view_for_terminal(every: int) -> View:
    """A live view when stderr is a terminal, plain lines when it is not."""
    return LiveView() if console(stderr=True).is_terminal else PlainView(every)


class _Eta:
    def begin(self, step: int, steps: int) -> None:
        self._first, self._steps, self._start = step, steps, time.monotonic()

    def after(self, step: int) -> str:
        done = max(1, step - self._first)
        seconds = int((time.monotonic() - self._start) / done * (self._steps - step))
        hours, minutes = divmod(seconds // 60, 60)
        return f"{hours}h{minutes:02d}" if hours else f"{minutes}:{seconds % 60:02d}"


def _held_out_line(step: int, values: Values) -> str:
    return (
        f"held out at step {step}: loss {values['loss']:.4f}  perplexity {values['perplexity']:.2f}  "
        f"{values['bits_per_byte']:.3f} bits/byte  (token frequencies alone: {values['unigram_perplexity']:.2f})"
    )
