"""The pinned compiler: its bytes depend on the source alone, and one that fails says where.

The real interpreter comes from Debian's mirror, as it does for every user. What goes wrong is shown
with packages whose loader is a shell script.
"""

from __future__ import annotations

import ast
import hashlib
import marshal
import os
import random
import subprocess
import sys
from collections.abc import Callable
from importlib.util import source_hash
from pathlib import Path
from types import CodeType

import pytest

from tests.support.debs import deb, member
from tests.support.services import lacking
from toolchain.adapters import compiler_process, debian_python
from toolchain.adapters.compatible import host_platform
from toolchain.adapters.compiler import PinnedCompiler
from toolchain.adapters.debian import DebianArchive
from toolchain.adapters.fetch import Fetcher
from toolchain.adapters.interpreters import Interpreters
from toolchain.digest import Digest
from toolchain.errors import ResolveError
from toolchain.journal import Journal
from toolchain.layer import bytecode
from toolchain.lock import base
from toolchain.lock.base import BasePins, DebianPackage
from toolchain.progress import Progress
from toolchain.store import Store

ROOT = Path(__file__).parents[2]
Compile = Callable[[list[tuple[str, bytes]], int], dict[str, bytes | None]]

# Texts that are interned or not, shared or not, and sets whose order hashes decide.
_TRAPS = {
    "interned": b"a = '/'\nb = 'x y'\nc = ('/', 'x y', 'name', b'/', 1 << 70, 1e300, 2j, None)\n",
    "names": b"import os.path\nfrom . import x\nname = getattr(x, 'os.path', '')\n",
    "sets": b"def f(v): return v in {None, 'a', 'b', 1.5, b'z', (1, 'a', None), ...}\n",
    "shared sets": b"def f(v): return v in {'one', 'two'}\ndef g(v): return v in {'two', 'one'}\n",
    "closures": b"def f(a, /, b, *c, d=1, **e):\n    def g(): return a, b, c, d, e\n    return g\n",
    "classes": b"class A:\n    x: int = 1\n    def m(self): return super().m(), __class__\n",
    "async": b"async def f():\n    async with a as b: return [c async for c in b if await c]\n",
    "match": b"match x:\n    case {'a': 1, **rest}: pass\n    case [1, 2, *y]: pass\n",
    "latin": "# -*- coding: latin-1 -*-\nx = 'ä'\n".encode("latin-1"),
    "bom": b"\xef\xbb\xbfx = 1\n",
    "warning": b"x = '\\d' is 1\n",
    "empty": b"",
}
_WRONG = {"syntax": b"def (:\n", "nul": b"x = 1\0\n", "encoding": b"# coding: nothing\n",
          "deep": b"(" * 5000 + b")" * 5000, "text": b"\xff\xfe\n"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def real(cache: Path) -> Callable[[], PinnedCompiler]:
    """Makes compilers from this repository's base.lock; skips where no Debian mirror is known."""
    store = Store(cache / "blobs", cache / "quarantine", Journal(cache))
    host = host_platform()
    entries = base.from_text((ROOT / base.FILE_NAME).read_text(), base.FILE_NAME)
    pinned = [pins for pins in entries
              if isinstance(pins, base.BasePins) and pins.platform == host]
    if not pinned:
        lacking("base.lock has no pins for this machine's platform")
    pins = pinned[0]
    archive = DebianArchive(mirror="", keyring="", updates=False, fetcher=Fetcher(
        store=store, progress=Progress()))
    try:
        debian_python.unpacked(pins, "3.11", cache / "interpreters", store, archive.fetch)
    except ResolveError as error:
        lacking(f"the pinned interpreter cannot be had: {error}")
    return lambda: PinnedCompiler(
        identity=bytecode.identity(pins, "3.11"), python="3.11",
        program=lambda: debian_python.program(pins, "3.11", cache / "interpreters", store,
                                              archive.fetch))


def _compile(compiler: PinnedCompiler, files: list[tuple[str, bytes]], batch: int
             ) -> dict[str, bytes | None]:
    with compiler:
        parts = [tuple(files[at:at + batch]) for at in range(0, len(files), batch)]
        asked = [compiler.compile(part) for part in parts]
        return {path: data for part, done in zip(parts, asked, strict=True)
                for (path, _), data in zip(part, done.result(60), strict=True)}


def _corpus() -> list[tuple[str, bytes]]:
    """The traps, and real modules enough to leave traces in an interpreter."""
    library = Path(os.__file__).parent
    files = [*library.glob("*.py"), *library.glob("asyncio/*.py"), *library.glob("email/*.py")]
    return [*((f"/traps/{name}.py", source) for name, source in _TRAPS.items()),
            *((f"/lib/{path.relative_to(library)}", path.read_bytes()) for path in sorted(files))]


def test_bytes_do_not_depend_on_order_company_or_process(
    real: Callable[[], PinnedCompiler]
) -> None:
    corpus = _corpus()
    first = _compile(real(), corpus, 10)
    assert len(first) > 200
    for seed, batch in ((1, 1), (2, 40), (3, len(corpus))):
        shuffled = list(corpus)
        random.Random(seed).shuffle(shuffled)
        again = _compile(real(), shuffled, batch)
        assert [path for path in first if first[path] != again[path]] == []


_CROWDED = """
import argparse, ast, importlib.util, inspect, logging, marshal, pathlib, sys
words = [sys.intern(word) for word in ("/", " ", "x y", ".", "os.path", "one")]
files = ast.literal_eval(sys.stdin.read())
held = [compile(bytes.fromhex(source), path, "exec") for path, source in files.items()]
spec = importlib.util.spec_from_file_location("process", sys.argv[1])
process = importlib.util.module_from_spec(spec)
spec.loader.exec_module(process)
plain = lambda path, source: marshal.dumps(compile(source, path, "exec", dont_inherit=True))
make = process.compiled if sys.argv[2] == "with care" else plain
print({path: make(path, bytes.fromhex(source)).hex() for path, source in files.items()})
"""


def _crowded(cache: Path, files: dict[str, bytes], care: str) -> dict[str, bytes]:
    """The same by the same interpreter, in which much else is loaded and held."""
    done = _run(cache, "-c", _CROWDED, compiler_process.__file__, care,
                stdin=repr({path: source.hex() for path, source in files.items()}))
    return {path: bytes.fromhex(data) for path, data in ast.literal_eval(done).items()}


def _run(cache: Path, *arguments: str, stdin: str = "") -> str:
    """What the unpacked interpreter prints."""
    (root,) = (cache / "interpreters").iterdir()
    (loader,) = root.glob("usr/lib/*/ld-linux-*.so.*")
    done = subprocess.run(
        [loader, "--library-path", loader.parent, root / "usr/bin/python3.11", "-S", "-B",
         "-W", "ignore", *arguments], env={"PYTHONHOME": str(root / "usr")}, input=stdin,
        capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_bytes_do_not_depend_on_what_else_the_interpreter_holds(
    real: Callable[[], PinnedCompiler], cache: Path
) -> None:
    corpus = dict(_corpus())
    assert _crowded(cache, corpus, "with care") == _compile(real(), list(corpus.items()), 10)


def test_without_care_they_would(real: Callable[[], PinnedCompiler], cache: Path) -> None:
    """The test above can fail: marshal by itself writes who else holds an object."""
    corpus = dict(_corpus())
    alone = _compile(real(), list(corpus.items()), 10)
    crowded = _crowded(cache, corpus, "without care")
    assert any(alone[path] != b"" and (alone[path] or b"")[16:] != crowded[path]
               for path in corpus)


def test_it_is_byte_code_that_python_loads_without_a_look_at_the_source(
    real: Callable[[], PinnedCompiler], cache: Path, tmp_path: Path
) -> None:
    source = b"def answer():\n    return 42\n"
    path = "/opt/venv/lib/python3.11/site-packages/alpha/__init__.py"
    (data,) = _compile(real(), [(path, source)], 1).values()
    assert data is not None
    assert int.from_bytes(data[4:8], "little") == 0b01  # PEP 552: by hash, unchecked
    (tmp_path / "alpha.pyc").write_bytes(data)
    script = ("import sys; sys.path.insert(0, sys.argv[1]); import alpha;"
              "print(alpha.answer(), alpha.answer.__code__.co_filename)")
    assert _run(cache, "-c", script, str(tmp_path)) == f"42 {path}\n"
    if sys.version_info[:2] == (3, 11):
        assert data[8:16] == source_hash(source)
        code = marshal.loads(data[16:])
        assert isinstance(code, CodeType)
        assert code.co_filename == path


def test_what_does_not_compile_is_left_out_and_the_rest_is_not(
    real: Callable[[], PinnedCompiler]
) -> None:
    files = [*((name, source) for name, source in _WRONG.items()), ("good", b"x = 1\n")]
    found = _compile(real(), files, len(files))
    assert {name for name, data in found.items() if data is None} == set(_WRONG)
    assert found["good"]


def test_traps_all_compile(real: Callable[[], PinnedCompiler]) -> None:
    assert None not in _compile(real(), list(_TRAPS.items()), 3).values()


def test_an_interpreter_that_was_damaged_is_unpacked_again(
    real: Callable[[], PinnedCompiler], cache: Path
) -> None:
    (root,) = (cache / "interpreters").iterdir()
    victim = root / "usr/lib/python3.11/encodings/__init__.py"
    whole = victim.read_bytes()
    victim.write_bytes(b"")
    assert _compile(real(), [("a.py", b"x = 1\n")], 1)["a.py"]
    assert victim.read_bytes() == whole
    assert [path.name for path in (cache / "interpreters").iterdir()] == [root.name]


# Interpreters of the machine, of the very version that is pinned


def _here() -> list[str]:
    """One version of each Python of this machine that images may have."""
    found = {f"{version[0]}.{version[1]}": ".".join(map(str, version))
             for version in sorted(Interpreters(os.environ, print).versions())
             if version >= (3, 9)}
    return [*found.values()]


def _local(version: str) -> PinnedCompiler:
    return PinnedCompiler(identity=bytecode.identity(version, version.rpartition(".")[0]),
                          python=version.rpartition(".")[0],
                          program=lambda: Interpreters(os.environ, print).compiler(version))


@pytest.mark.parametrize("version", _here())
def test_an_interpreter_of_the_machine_compiles_as_carefully(version: str, tmp_path: Path) -> None:
    corpus = _corpus()  # an older Python compiles not all of it
    first = _compile(_local(version), corpus, 10)
    # Before 3.11 a set that None is in has another order in each process.
    assert (first["/traps/sets.py"] is None) == version.startswith(("3.9.", "3.10."))
    shuffled = random.Random(1).sample(corpus, len(corpus))
    assert _compile(_local(version), shuffled, 40) == first
    assert _local(version).identity == f"cpython {version} unchecked-hash 1"
    source = b"def answer():\n    return 42\n"
    path = "/opt/venv/alpha.py"
    (data,) = _compile(_local(version), [(path, source)], 1).values()
    assert data is not None
    (tmp_path / "alpha.pyc").write_bytes(data)
    python = Interpreters(os.environ, print).exact(version)
    done = subprocess.run(
        [str(python), "-B", "-c", "import alpha; print(alpha.answer(), "
         "alpha.answer.__code__.co_filename)"], cwd=tmp_path, capture_output=True, text=True,
        check=True)
    assert done.stdout == f"42 {path}\n"


def test_an_interpreter_that_is_not_here_is_an_error_once_it_is_needed() -> None:
    nowhere = {"PATH": "", "HOME": "/nowhere", "UV_PYTHON_DOWNLOADS": "never",
               "UV_PYTHON_INSTALL_DIR": "/nowhere"}
    with PinnedCompiler(identity="x", python="3.12", program=lambda: Interpreters(
            nowhere, print).compiler("3.12.99")) as compiler:
        asked = [compiler.compile((("/opt/a.py", b""),)) for _ in range(3)]
        for one in asked:
            with pytest.raises(ResolveError) as found:
                one.result(60)
            assert "byte-code is made by Python 3.12.99" in found.value.what
            assert "uv python install 3.12.99" in found.value.fix
            assert "image.bytecode=no" in found.value.fix


# A loader that is a script: what a broken interpreter does.

_GREETING = r"printf '\013\000\000\000cpython-311'; "


@pytest.fixture
def broken(store: Store, tmp_path: Path) -> Callable[..., PinnedCompiler]:
    def make(script: str, *, mode: int = 0o755, patience: float = 30) -> PinnedCompiler:
        packages = {
            "libc6": [member("./lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
                             f"#!/bin/sh\n{script}\n".encode(), mode=mode)],
            "python3.11-minimal": [member("./usr/bin/python3.11", b"python", mode=0o755)],
            "libpython3.11-minimal": None, "libexpat1": None, "zlib1g": None}
        pins = BasePins(suite="bookworm", platform="linux/amd64", packages=tuple(
            _pinned(name, deb(name, members=members), store)
            for name, members in sorted(packages.items())))
        return PinnedCompiler(
            identity="x", python="3.11", patience=patience,
            program=lambda: debian_python.program(pins, "3.11", tmp_path / "interpreters", store,
                                                  lambda pins: None))

    return make


def _pinned(name: str, data: bytes, store: Store) -> DebianPackage:
    store.put(data)
    return DebianPackage(name=name, version="1", architecture="amd64", archive="debian", path="x",
                         size=len(data), sha256=Digest(hashlib.sha256(data).hexdigest()))


@pytest.mark.parametrize(("script", "what", "where"), [
    ("echo 'no such library' >&2; exit 127",
     "ended with status 127: no such library", "before the first file"),
    (_GREETING + "kill -SEGV $$", "ended by signal 11", "/opt/a.py"),
    (_GREETING + r"printf '\377\377\377\377'; exit 0", "ended with status 0", "/opt/b.py"),
    (_GREETING + "exec sleep 60", "did not answer within 0.5 s", "/opt/a.py"),
    ("exec sleep 60", "did not answer within 0.5 s", "before the first file"),
    (r"printf '\013\000\000\000cpython-312'; exec sleep 60", "calls itself 'cpython-312'",
     "interpreters"),
])
def test_a_compiler_that_fails_says_how_and_at_which_file(
    broken: Callable[..., PinnedCompiler], script: str, what: str, where: str
) -> None:
    with broken(script, patience=0.5) as compiler:
        done = compiler.compile((("/opt/a.py", b"x = 1\n"), ("/opt/b.py", b"y = 1\n")))
        with pytest.raises(ResolveError, match="compiler of byte-code failed") as caught:
            done.result(20)
    assert what in caught.value.what
    assert where in caught.value.where
    assert "image.bytecode=no" in caught.value.fix


def test_one_that_may_not_be_started_is_an_error_too(
    broken: Callable[..., PinnedCompiler]
) -> None:
    with broken("exit 0", mode=0o644) as compiler, \
            pytest.raises(ResolveError, match="cannot be started: Permission denied"):
        compiler.compile((("/opt/a.py", b""),)).result(20)


def test_nothing_is_unpacked_before_the_first_file(
    broken: Callable[..., PinnedCompiler], tmp_path: Path
) -> None:
    with broken("exit 0"):
        pass
    assert not (tmp_path / "interpreters").exists()
