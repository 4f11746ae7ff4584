"""The engine `docker` beside `docker run` of the same command in the same image, in turns.

    DOCKER_HOST=… python -m benchmarks.docker_run [--write]

Needs a Docker engine and Docker's own command. Both run a command that does nothing, as an engine
with the image finds it, and remove the container. The engine's time is all that it does for a job:
it looks for the image and for what others left, and hears the output out.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks import options, table, timing
from benchmarks.timing import Times, say
from tests.support.engines import Bench
from tests.support.services import docker_client

RUNS = 30


def measure(folder: Path) -> list[table.Row]:
    bench, client = Bench(folder), docker_client()
    engine, job = bench.docker(), bench.job("true")
    engine.prepare(job)
    image = str(job.image.config_digest)
    bare, ours = Times(), Times()
    try:
        for number in range(RUNS + 1):
            began = time.perf_counter()
            subprocess.run(["docker", "run", "--rm", "--network", "host", "--entrypoint", "bash",
                            image, "-c", "true"], check=True)
            between = time.perf_counter()
            outcome = engine.execute(job)
            ended = time.perf_counter()
            if outcome.code:
                raise SystemExit(f"the job ended with {outcome}")
            if number:
                bare.seconds.append(between - began)
                ours.seconds.append(ended - between)
        say(f"{RUNS} runs of each")
    finally:
        client.images.remove(image, force=True)
    return [table.Row(what="`docker run` of the command", times=bare, baseline=bare),
            table.Row(what="`engine=docker`, the same command", times=ours, baseline=bare,
                      most_above=0.6)]


def main() -> None:
    given = options.parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = measure(Path(name))
    options.finish(given, "docker", table.markdown(rows, "`docker run`", timing.machine()))


if __name__ == "__main__":
    main()
