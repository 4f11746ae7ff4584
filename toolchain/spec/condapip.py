"""What conda was asked for -> what pip can be asked for in its place.

A conda.yaml with only python and pip needs no conda. Another may do without where its channel
cannot be reached and the setting conda.pip allows it: if the packages are Python's, they have the
same names in a package index, nearly always.
"""

from __future__ import annotations

import re

from toolchain.errors import SpecError
from toolchain.spec import Conda

# What conda's channels call otherwise than the index of Python's packages does.
_OTHER_NAMES = {
    "dask-core": "dask", "matplotlib-base": "matplotlib",
    "mlflow-base": "mlflow", "msgpack-python": "msgpack", "opencv": "opencv-python",
    "py-lightgbm": "lightgbm", "py-opencv": "opencv-python", "py-xgboost": "xgboost",
    "pytables": "tables", "python-flatbuffers": "flatbuffers", "python-kaleido": "kaleido",
    "pytorch": "torch", "pytorch-cpu": "torch", "pytorch-gpu": "torch",
    "sqlalchemy-base": "sqlalchemy", "tensorflow-base": "tensorflow",
}


def python_version(wanted: str, where: str, default: str) -> str:
    """`=3.11`, `3.11.*`, `>=3.9,<3.12`, `3.8|3.9` -> a Python version; empty for any."""
    exact = re.fullmatch(r"={0,2}\s*(3\.\d+(?:\.\d+)?)(?:\.?\*)?", wanted)
    if exact:
        return exact[1]
    if re.fullmatch(r"(?:={0,2}\s*3(?:\.?\*)?|\*)?", wanted):
        return ""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        allowed = [SpecifierSet(",".join(map(_python_term, other.split(","))))
                   for other in wanted.split("|")]
    except InvalidSpecifier:
        raise SpecError(f"not a Python version: python{wanted}", where=where,
                        fix="write it as python=3.11") from None
    for candidate in (default, "3.13", "3.12", "3.11", "3.10", "3.9", "3.8", "3.7", "3.6"):
        minor = ".".join(candidate.split(".")[:2])
        if any(f"{minor}.{patch}" in some for patch in range(30) for some in allowed):
            return minor
    raise SpecError(f"no Python that can be had satisfies python{wanted}", where=where,
                    fix="write it as python=3.11; Python 2 is not among them")


def _python_term(text: str) -> str:
    """One comparison of conda's as PEP 440 has it, where a version may end with `*`."""
    match = re.fullmatch(r"\s*(=|[<>!=~]=|[<>]|)\s*([\d.]+?)(\.?\*)?\s*", text)
    if match is None or match[1] == "~=":
        return text
    sign, version, star = match[1], match[2], match[3]
    if sign in ("", "="):
        return f"=={version}.*"
    if not star or sign in ("==", "!="):
        return f"{sign}{version}{'.*' if star else ''}"
    # With a star, `>` and `<=` speak of all that begins so.
    return f"{sign}{version}.999" if sign in (">", "<=") else f"{sign}{version}"


def specifier(wanted: str) -> str:
    """conda's version as PEP 440 has it. `=23.1` means 23.1 and what begins with it; `==` and
    ranges are the same in both."""
    if wanted.startswith("=") and not wanted.startswith("=="):
        return f"=={wanted[1:].strip().rstrip('*').rstrip('.')}.*"
    if wanted[:1].isdigit():  # `pip 23.1`, conda's own long form
        return f"=={wanted}"
    return wanted


def as_requirements(wanted: Conda, default_python: str) -> tuple[str, tuple[str, ...]]:
    """The Python version, empty for any, and the requirements. Raises SpecError for what only
    conda can mean."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    python, found = "", set()
    for text in wanted.packages:
        match = re.fullmatch(r"(?:.*::)?([a-z0-9_.-]+?)\s*([=<>!~ ].*|)(\[.*\])?", text)
        version = match[2].strip() if match else ""
        if match and match[1] == "python" and not match[3] and "|" in version:
            python = python_version(version, wanted.file, default_python)
            continue
        if match is None or match[3] or " " in version or "|" in version \
                or re.match(r"={1,2}[^=]+=[^=]", version):
            raise SpecError(f"only conda can tell what this is: {text}", where=wanted.file,
                            fix="ask for it without a build, or make the channel reachable")
        if match[1] == "python":
            python = python_version(version, wanted.file, default_python)
            continue
        if match[1] == "pip" and not version:
            continue  # it is what installs, not what is installed
        try:
            requirement = Requirement(f"{match[1]}{specifier(version) if version else ''}")
        except InvalidRequirement:
            raise SpecError(f"pip has no word for this: {text}", where=wanted.file,
                            fix="make the channel reachable, or ask for another version") from None
        name = canonicalize_name(requirement.name)
        requirement.name = _OTHER_NAMES.get(name, name)
        found.add(str(requirement))
    return python, tuple(sorted(found))
