"""A maintainer script -> what it says to update-alternatives when its package is installed.

Rule 1: nothing runs. The script is followed as `postinst configure` on a system that has no former
version of the package, with values that are either known or not.
Rule 2: what stands under a condition that is not known, or has a value that is not known, is no
offer; a note names the package. Nothing is missing in silence.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import field

from toolchain.layer.shell import NotShell, parser
from toolchain.layer.shell.built_in import BUILT_IN, Shell
from toolchain.layer.shell.condition import Exists, Value
from toolchain.layer.shell.state import Leave
from toolchain.values import dataclass

_PROGRAM = "update-alternatives"
_MULTIARCH = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
_SHELL = re.compile(r"#! ?(?:/usr)?/bin/(?:sh|bash|dash)\b([^\n]*)")
# dpkg(1): how no version compares to any; with `-nl` it is later, else earlier.
_NO_VERSION = {"lt": True, "le": True, "ne": True, "lt-nl": False, "le-nl": False,
               "eq": False, "ge": False, "gt": False, "ge-nl": True, "gt-nl": True}
# They run what they are given; and they do not.
_RUNNING = frozenset({"eval", "sh", "bash", "dash", "env", "xargs"})
_SILENT = frozenset({"printf", "grep", "egrep", "fgrep", "logger", "dpkg-query"})
# What other programs of a script do that an image's user may miss.
_TOLD = {
    "adduser": "a user", "addgroup": "a group", "useradd": "a user", "groupadd": "a group",
    "dpkg-divert": "a diversion", "locale-gen": "locales", "fmtutil-sys": "TeX's formats",
    "updmap-sys": "TeX's font maps", "mktexlsr": "TeX's file list",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One `--install LINK NAME PATH PRIORITY`, with its `--slave LINK NAME PATH`s: name ->
    (link, path). Paths are absolute, as written."""

    link: str
    name: str
    path: str
    priority: int
    slaves: dict[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Read:
    """What was read out of a script.

    notes: what of it could not be, for people; undone: what other things it would do.
    """

    offers: tuple[Offer, ...]
    notes: tuple[str, ...] = ()
    undone: tuple[str, ...] = ()


def read(text: str, package: str, architecture: str, exists: Exists) -> Read:
    """`exists` says whether an absolute path is a file of the image; None where that is unknown."""
    shell = _SHELL.match(text)
    reader = _Postinst(package, architecture, exists, is_named=_PROGRAM in text,
                       stops=bool(shell and re.search(r"\s-\w*e", shell[1])))
    try:
        if not shell:
            raise NotShell("not a shell script")
        with contextlib.suppress(Leave):
            reader.body(parser.parse(text))
    except (NotShell, RecursionError) as error:
        if _PROGRAM in text:
            reader.note(f"its script is not understood ({error}), so links that "
                        "update-alternatives would make are missing")
    return Read(tuple(reader.offers), tuple(reader.notes), tuple(reader.undone))


class _Postinst(Shell):
    """is_named: whether update-alternatives is written anywhere in the script."""

    def __init__(self, package: str, architecture: str, exists: Exists, *, is_named: bool,
                 stops: bool) -> None:
        super().__init__(exists, {
            "DPKG_ROOT": "", "DPKG_MAINTSCRIPT_ARCH": architecture,
            "DPKG_MAINTSCRIPT_NAME": "postinst", "DPKG_MAINTSCRIPT_PACKAGE": package,
        }, ("configure", ""), stops=stops)
        self._is_named = is_named
        self._package = package
        self._architecture = architecture
        self.offers: list[Offer] = []
        self.notes: dict[str, None] = {}
        self.undone: dict[str, None] = {}

    def note(self, what: str) -> None:
        self.notes[f"{self._package}: {what}"] = None

    def other(self, name: Value, arguments: list[Value]) -> bool | None:
        if name in _KNOWN:
            return _KNOWN[name](self, arguments)
        if name == "db_get":  # debconf's: the answer is in a variable
            self._scope.forget()
            self.write(None)
            return None
        if name in _TOLD and (name != "dpkg-divert" or "--add" in arguments):
            self.undone[f"{self._package}: its script would make {_TOLD[name]} with {name}; "
                        "that is not done"] = None
        if self._may_offer(name, arguments):
            what = name or "a command that is not known"
            self.note(f"its script runs {what} in a way that cannot be followed; links that it "
                      "makes are missing")
        self.write(None)
        return None

    def _may_offer(self, name: Value, arguments: list[Value]) -> bool:
        """Whether what is not followed may call update-alternatives --install."""
        known = [value for value in arguments if value is not None]
        if name in _SILENT or any("--remove" in value for value in known):
            return False
        if any(_PROGRAM in value for value in (name or "", *known)) or (
                name is None and "--install" in known):
            return True
        # A name or a script that is not known may be it, in a script that has it anywhere.
        is_any = len(known) < len(arguments) or not arguments
        return self._is_named and is_any and (name is None or name in _RUNNING)

    def do_which(self, arguments: list[Value]) -> bool | None:
        """`which`, `command -v` and `type`: the path of a program."""
        names = [name for name in arguments if name is None or not name.startswith("-")]
        if len(names) != 1 or names[0] is None:
            self.write(None)
            return None
        name = names[0]
        if name in BUILT_IN:
            self.write(None)
            return None
        if name == _PROGRAM or name.startswith("dpkg"):
            self.write(f"/usr/bin/{name}\n")
            return True
        for folder in ("/usr/sbin", "/usr/bin"):
            there = self._exists(f"{folder}/{name}")
            if there is None:
                self.write(None)
                return None
            if there:
                self.write(f"{folder}/{name}\n")
                return True
        return False

    def do_uname(self, arguments: list[Value]) -> bool:
        self.write("Linux\n" if arguments in ([], ["-s"]) else None)
        return True

    def do_mountpoint(self, arguments: list[Value]) -> bool | None:
        return True if arguments and arguments[-1] == "/proc" else None

    def do_dpkg(self, arguments: list[Value]) -> bool | None:
        if arguments == ["--print-architecture"]:
            self.write(f"{self._architecture}\n")
            return True
        if (len(arguments) == 4 and arguments[:2] == ["--compare-versions", ""]
                and arguments[2] in _NO_VERSION):
            return _NO_VERSION[arguments[2]]
        self.write(None)
        return None

    def do_architecture(self, arguments: list[Value]) -> bool | None:
        asked = (arguments[0] or "").removeprefix("-q") if len(arguments) == 1 else ""
        known = {"DEB_HOST_MULTIARCH": _MULTIARCH.get(self._architecture),
                 "DEB_BUILD_MULTIARCH": _MULTIARCH.get(self._architecture),
                 "DEB_HOST_ARCH": self._architecture, "DEB_BUILD_ARCH": self._architecture}
        value = known.get(asked)
        self.write(None if value is None else f"{value}\n")
        return None if value is None else True

    def do_alternatives(self, arguments: list[Value]) -> bool | None:
        self.write(None)
        if "--install" not in arguments:
            if arguments and ("--set" in arguments or "--config" in arguments):
                self.note("its script chooses by update-alternatives --set; that is not done")
            asks = {"--list", "--query", "--display", "--get-selections"} & {*arguments}
            if None in arguments and not asks and not any(
                    (value or "").startswith(("--remove", "--auto", "--set", "--config"))
                    for value in arguments):
                self.note("its script calls update-alternatives with values that cannot be told "
                          "without running it; a link may be missing")
            # Asked about; or an old alternative is removed, which a new image does not have.
            return None if asks or None in arguments else True
        if not self.is_sure or None in arguments:
            named = [value for value in arguments[arguments.index("--install") + 1:][:2] if value]
            what = f"the link {named[0]}" if named else "a link"
            reason = ("under a condition" if not self.is_sure else "with a value")
            self.note(f"its script makes {what} {reason} that cannot be told without running it; "
                      "that link is missing")
            return True
        offer = _offer([value for value in arguments if value is not None])
        if offer is None:
            self.note("its script calls update-alternatives in a way that is not understood; a "
                      "link is missing")
        else:
            self.offers.append(offer)
        return True


_KNOWN: dict[Value, Callable[[_Postinst, list[Value]], bool | None]] = {
    "which": _Postinst.do_which, "uname": _Postinst.do_uname,
    "mountpoint": _Postinst.do_mountpoint, "dpkg": _Postinst.do_dpkg,
    "dpkg-architecture": _Postinst.do_architecture,
    _PROGRAM: _Postinst.do_alternatives,
}


def _offer(arguments: list[str]) -> Offer | None:
    """Read update-alternatives(1)'s arguments; None where they are none of its."""
    offer: Offer | None = None
    rest = list(arguments)
    while rest:
        option = rest.pop(0)
        if option == "--install" and len(rest) >= 4 and offer is None:
            link, name, path, priority = rest[:4]
            del rest[:4]
            if not re.fullmatch(r"[+-]?\d{1,9}", priority):
                return None
            offer = Offer(link=link, name=name, path=path, priority=int(priority))
        elif option == "--slave" and len(rest) >= 3 and offer is not None:
            link, name, path = rest[:3]
            del rest[:3]
            offer.slaves[name] = (link, path)
        elif option not in ("--quiet", "--verbose", "--force"):
            return None
    if offer is None or not all(map(_is_plain, (
            (offer.link, offer.name, offer.path),
            *((link, name, path) for name, (link, path) in offer.slaves.items())))):
        return None
    return offer


def _is_plain(three: tuple[str, str, str]) -> bool:
    """Whether link, name and path are what update-alternatives takes, and stay in the image."""
    link, name, path = three
    return (bool(re.fullmatch(r"[^/\s]+", name)) and name not in (".", "..")
            and all(re.fullmatch(r"/[^\s]+", item) and ".." not in item.split("/")
                    and "\0" not in item for item in (link, path)))
