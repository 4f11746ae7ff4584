"""A sweep's best trial -> the call that trains it, and its model version."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace

from toolchain import run as training
from toolchain.chain import Chain
from toolchain.commands.entry import identity_of
from toolchain.commands.sweep import Asked, asked
from toolchain.errors import SweepError
from toolchain.spec import command
from toolchain.values import dataclass

NAME = "best"


@dataclass(frozen=True, slots=True)
class Best:
    """The winner: its run, the parameters that the sweep has varied, and its chain."""

    run: training.Run
    metric: str
    params: Mapping[str, str]
    chain: Chain

    @property
    def line(self) -> str:
        """`doit train project=x params="alpha=0.1"`, for a shell."""
        config = self.chain.config
        words = ["doit", "train", *map(shlex.quote, self.chain.project.named)]
        if config.entry_point != "main":
            words.append(shlex.quote(f"entry_point={config.entry_point}"))
        return " ".join([*words, f"params={shlex.quote(config.params)}"])

    @property
    def words(self) -> str:
        return f"run {self.run.run_id}  {self.metric}={self.run.metrics[self.metric]}"


def find(chain: Chain) -> Best:
    """The best finished trial of the project as it is now. Raises SweepError if there is none."""
    found: Asked = asked(chain, to_run=False)
    chain, sweep = found.chain, found.sweep
    best = chain.session.tools.records(chain.config).best(identity_of(chain, sweep), sweep.metric)
    if best is None:
        raise SweepError(
            "no trial of this sweep is finished", where=f"{chain.name}, as its files are now",
            fix=f"doit sweep {shlex.join(chain.project.named)}; a trial of other code or another "
                "image, or for another metric, does not count")
    given = command.parse_params(chain.config.params)
    known = {**best.run.params, **best.params}
    params = {item.name: known[item.name] for item in sweep.space.parameters
              if item.name in known}
    config = replace(chain.config, params=_text({**given, **params}))
    return Best(run=best.run, metric=sweep.metric.name, params=params,
                chain=Chain(chain.session, chain.project, config))


def _text(params: Mapping[str, str]) -> str:
    return " ".join(f"{name}={_quoted(text)}" for name, text in params.items())


def _quoted(text: str) -> str:
    """A value as params= takes it: in quotes where it has blanks, commas or quotes."""
    if text and not any(mark in text for mark in " \t\n,'\""):
        return text
    return f'"{text}"' if '"' not in text else f"'{text}'"
