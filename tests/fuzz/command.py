"""`python -m tests.fuzz.command --runs 1000000`: commands and `params`, without bash.

What bash makes of the line is for tests/test_command.py; here, nothing may go wrong, no value may
get into the line, and what is appended must not change what was there.
"""

from __future__ import annotations

import random

from tests.fuzz.mutation import Mutator, main
from toolchain.digest import canonical_json
from toolchain.spec import PARAMETER_TYPES, EntryPoint, Parameter, Spec
from toolchain.spec.command import call, parse_params, refuse_formatting
from toolchain.spec.commandline import split, stripped

_COMMANDS = Mutator((
    "python train.py {a} --rate {rate}", "python a.py \\\n  --a {a} \\\n  --b '{b-c}' \\\n\n",
    "cat <<END\n{a}\nEND\n", "cat <<-'E' | sort # why\n\t{a}\n\tE\npython x # {rate}\n",
    "export A=${HOME}; awk '{print $1}' \"{a}\" && run {{a}} ; ", "(cd x; run {a}) & # end",
    "echo $((1 << 2)) {a.b} {rate:>9} <<< {a}", "python train.py {a} &> log; # x\n# y\n",
), ("{a}", "{rate}", "{b-c}", "{{", "}}", "${a}", "'", '"', "\\", "\\\n", "\n", "#", " # ", ";",
    "&", "&&", "<<E\n", "<<'E'", "E\n", "$(", ")", "`", "<<<", "\r\n", "\t", "\0", "{a!r}",
    "{a[0]}"))
_PARAMS = Mutator(("a=1 rate=0.5", "a='x y',rate=1e-1", "--a=1, b-c=\"q\" extra=s3://b/k?x=1",
                   "sizes=1,2,3 b=4"),
                  ("=", ",", " ", "'", '"', "a=", ",a=", "--", "\\", "\n", "nan", "inf", "\0", "é",
                   "SECRET", "rate=", "0x1", "9" * 5000))
_TYPES = (*PARAMETER_TYPES, "other")


def attempt(chance: random.Random) -> None:
    """One command with parameters. Raises SpecError, or a mistake of ours."""
    command = stripped(_COMMANDS.make(chance))
    start, rest = split(command)
    assert start + rest == command
    assert stripped(command) == command
    declared = {name: _parameter(chance) for name in ("a", "rate", "b-c")}
    refuse_formatting(command, declared, "here")
    spec = Spec(name="one", environment="python_env", python="", requirements=(), constraints=(),
                hashes={}, files={},
                entry_points={"main": EntryPoint(command=command, parameters=declared)})
    given = parse_params(_PARAMS.make(chance))
    settled = call(spec, "main", given, lambda text: None)
    line = settled.command()
    canonical_json(settled.identity())
    if not any("SECRET" in name for name in given) and "SECRET" not in command:
        assert "SECRET" not in line
    if not set(given) - set(declared):
        return
    known = {name: text for name, text in given.items() if name in declared}
    alone = call(spec, "main", known, lambda text: None)
    ours = [f"TOOLCHAIN_PARAMETER_{number}"
            for number in range(len(declared) + 1, len(settled.parameters) + 1)]
    assert all(name in line and name not in alone.command() for name in ours)


def _parameter(chance: random.Random) -> Parameter:
    kind = chance.choice(_TYPES) if chance.random() < 0.4 else "string"
    default = None if chance.random() < 0.05 else "s3://b" if kind == "uri" else "1"
    return Parameter(type=kind, default=default)


if __name__ == "__main__":
    main(attempt)
