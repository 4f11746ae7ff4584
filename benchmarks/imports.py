"""What byte-code in an image is worth: how long a program in it takes to import its packages.

    python -m benchmarks.imports [--keep FOLDER] [--write]

The image is the example's, once as it is and once with `image.bytecode=no`. Both run in the
sandbox, where what Python compiles is gone with the job, as in a container.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import options, table, timing
from benchmarks.sandbox import Bench
from benchmarks.timing import Times, say

RUNS = 5
_COMMAND = 'python -c "import mlflow, sklearn"'


def measure(folder: Path, kept: Path) -> list[table.Row]:
    say("preparing: two images")
    without = Bench(kept / "without", "image.bytecode=no", command=_COMMAND)
    compiled = Bench(kept / "with", command=_COMMAND)
    engines = []
    for bench, name in ((without, "without"), (compiled, "with")):
        (folder / name).mkdir()
        engines.append(bench.engine(folder / name))
    times = [Times(), Times()]
    for number in range(RUNS + 1):
        for bench, engine, taken in zip((without, compiled), engines, times, strict=True):
            seconds = bench.seconds(engine)
            if number:  # the first unpacks the image
                taken.seconds.append(seconds)
        say(f"run {number} of {RUNS}")
    return [table.Row(what="`import mlflow, sklearn`, image without byte-code", times=times[0],
                      baseline=times[0]),
            table.Row(what="the same, with byte-code", times=times[1], baseline=times[0])]


def main() -> None:
    given = options.parser(__doc__, keeps=True).parse_args()
    with options.folders(given) as (folder, kept):
        rows = measure(folder, kept)
    options.finish(given, "imports", table.markdown(rows, "the one without", timing.machine()))


if __name__ == "__main__":
    main()
