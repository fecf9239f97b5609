"""Says which layer has become dearer than it may be: C{python benchmarks/layerbounds.py}, about a minute.

Each layer of C{layers.py} is compared with a fixed loop of Python that was measured beside it, so the bounds hold on
quicker and on slower machines. They are wide, about three times what was measured when they were set, and the least of
all values is judged, since noise only adds. It is no part of the tests.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click

HERE = Path(__file__).resolve().parent
REFERENCE = "reference"
#: The most of each layer, as a part of the loop (a thousand times around).
BOUNDS = {
    "parse a request": 0.12,
    "admission": 0.1,
    "look-up": 0.25,
    "negotiate": 0.12,
    "lay out a chunk": 4.5,
    "lay out a chunk natively": 1.1,
    "an event as text": 0.2,
    "an event as JSON": 1.5,
    "an event is counted": 0.6,
    "a fast path step": 0.03,
    "a group step": 0.35,
}


@dataclass(frozen=True)
class Layer:
    """
    What became of one layer.

    @ivar seconds: the least that was measured; C{part}: of the loop.
    """

    name: str
    seconds: float
    part: float

    @property
    def kept(self) -> bool:
        """Whether the layer is within its bound; one without a bound is."""
        return self.part <= BOUNDS.get(self.name, float("inf"))


def judged(least: dict[str, float]) -> list[Layer]:
    """
    @param least: seconds by layer, the loop's with them.
    """
    loop = least[REFERENCE]
    return [Layer(name, seconds, seconds / loop) for name, seconds in least.items() if name != REFERENCE]


def table(layers: list[Layer]) -> str:
    """@return: the lines of a table in Markdown."""
    lines = ["| layer | µs | of the loop | at most | |", "|---|---|---|---|---|"]
    for each in layers:
        bound, verdict = BOUNDS.get(each.name, float("inf")), "" if each.kept else "**dearer**"
        lines.append(f"| {each.name} | {each.seconds * 1e6:.2f} | {each.part:.3f} | {bound:g} | {verdict} |")
    return "\n".join(lines)


def measure(out: Path, words: list[str]) -> dict[str, float]:
    """Run C{layers.py}.

    @return: the least of all values, in seconds, by layer.
    """
    import pyperf  # of this alone; the bounds can be read without it

    command = [sys.executable, str(HERE / "layers.py"), "-q", "-o", str(out), *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return {each.get_name(): min(each.get_values()) for each in pyperf.BenchmarkSuite.load(str(out)).get_benchmarks()}


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--keep", type=click.Path(dir_okay=False, path_type=Path), help="Where to write what pyperf measured.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def main(keep: Path | None, words: tuple[str, ...]) -> None:
    """Measure the layers, print them, and fail if one is dearer than it may be. WORDS are for pyperf."""
    with tempfile.TemporaryDirectory(prefix="castd-layers-") as folder:
        layers = judged(measure(keep or Path(folder) / "layers.json", list(words)))
    click.echo(table(layers))
    sys.exit(not all(each.kept for each in layers))


if __name__ == "__main__":
    main()
