"""Whoever set pip up on a machine meant it for every installer: pip's settings reach uv."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import uv

from tests.support.wheels import wheel
from toolchain.adapters.indexes import credentials, uv_environment


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    (folder / ".config/pip").mkdir(parents=True)
    return folder


def _environ(home: Path, **variables: str) -> dict[str, str]:
    return {"HOME": str(home), **variables}


def _for_uv(home: Path, **variables: str) -> dict[str, str]:
    """What was added for uv, beyond what the machine's own /etc/pip.conf adds."""
    given = _environ(home, **variables)
    known = uv_environment({"HOME": "/nowhere"})
    return {name: value for name, value in uv_environment(given).items()
            if given.get(name) != value and known.get(name) != value}


def _from_variables(home: Path, **variables: str) -> dict[str, str]:
    """The same where pip is told to read no file."""
    return _for_uv(home, PIP_CONFIG_FILE=os.devnull, **variables)


def _pip_conf(home: Path, text: str, place: str = ".config/pip/pip.conf") -> Path:
    path = home / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_without_settings_of_pip_nothing_is_added(home: Path) -> None:
    given = _environ(home, PIP_CONFIG_FILE=os.devnull)
    assert uv_environment(given) == given


def test_pip_conf_is_handed_over(home: Path) -> None:
    _pip_conf(home, """\
[global]
index-url = https://a.example/simple
extra-index-url =
    https://b.example/simple
    https://c.example/simple
find-links = /wheels https://d.example/links
trusted-host = a.example
    b.example
cert = /etc/ca.pem
""")
    assert _for_uv(home) == {
        "UV_DEFAULT_INDEX": "https://a.example/simple",
        "UV_EXTRA_INDEX_URL": "https://b.example/simple https://c.example/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/wheels,https://d.example/links",
        "UV_INSECURE_HOST": "a.example b.example", "SSL_CERT_FILE": "/etc/ca.pem",
    }


def test_pips_variables_are_handed_over_and_win_over_its_files(home: Path) -> None:
    _pip_conf(home, "[global]\nindex-url = https://file.example/simple\nno-index = false\n")
    assert _for_uv(home, PIP_INDEX_URL="https://env.example/simple", PIP_NO_INDEX="1",
                   PIP_FIND_LINKS="/one /two", PIP_CERT="/ca.pem",
                   PIP_EXTRA_INDEX_URL="https://x.example/simple",
                   PIP_TRUSTED_HOST="env.example") == {
        "UV_DEFAULT_INDEX": "https://env.example/simple", "UV_NO_INDEX": "1",
        "UV_FIND_LINKS": "/one,/two", "SSL_CERT_FILE": "/ca.pem",
        "UV_EXTRA_INDEX_URL": "https://x.example/simple", "UV_INDEX_STRATEGY":
        "unsafe-best-match", "UV_INSECURE_HOST": "env.example",
    }


@pytest.mark.parametrize(("word", "result"), [
    ("1", {"UV_NO_INDEX": "1"}), ("true", {"UV_NO_INDEX": "1"}), ("on", {"UV_NO_INDEX": "1"}),
    ("0", {}), ("no", {}), ("false", {})])
def test_pips_words_for_yes_and_no_are_understood(
    home: Path, word: str, result: dict[str, str]
) -> None:
    assert _from_variables(home, PIP_NO_INDEX=word) == result


def test_the_more_special_file_wins(home: Path, tmp_path: Path) -> None:
    places = [".pip/pip.conf", ".config/pip/pip.conf"]
    for place in places:
        _pip_conf(home, f"[global]\nindex-url = https://{place}/\n", place)
        assert _for_uv(home) == {"UV_DEFAULT_INDEX": f"https://{place}/"}
    xdg = _pip_conf(tmp_path / "xdg", "[global]\nindex-url = https://xdg/\n", "pip/pip.conf")
    variables = {"XDG_CONFIG_HOME": str(xdg.parent.parent)}
    assert _for_uv(home, **variables) == {"UV_DEFAULT_INDEX": "https://xdg/"}
    venv = _pip_conf(tmp_path / "venv", "[global]\nindex-url = https://venv/\n", "pip.conf")
    variables["VIRTUAL_ENV"] = str(venv.parent)
    assert _for_uv(home, **variables)["UV_DEFAULT_INDEX"] == "https://venv/"
    chosen = _pip_conf(tmp_path, "[global]\nindex-url = https://chosen/\n", "chosen.conf")
    variables["PIP_CONFIG_FILE"] = str(chosen)
    assert _for_uv(home, **variables)["UV_DEFAULT_INDEX"] == "https://chosen/"


def test_the_section_of_install_wins_over_global(home: Path) -> None:
    _pip_conf(home, "[install]\nindex-url = https://install/\n[global]\nindex_url = https://all/\n"
                    "[freeze]\nindex-url = https://freeze/\n")
    assert _for_uv(home) == {"UV_DEFAULT_INDEX": "https://install/"}


@pytest.mark.parametrize("text", ["no section", "[global", "[global]\nindex-url\n", "\udcff",
                                  "[global]\nindex-url = https://%(x)s.example/\n"])
def test_a_file_that_pip_could_not_read_either_is_left_to_pip(home: Path, text: str) -> None:
    path = _pip_conf(home, "")
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    result = _for_uv(home, PIP_EXTRA_INDEX_URL="https://b.example/simple")
    assert result["UV_EXTRA_INDEX_URL"] == "https://b.example/simple"


@pytest.mark.parametrize("name", ["UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_FIND_LINKS",
                                  "UV_EXTRA_INDEX_URL", "UV_CONFIG_FILE", "UV_NO_INDEX"])
def test_whoever_set_uv_up_is_obeyed(home: Path, name: str) -> None:
    _pip_conf(home, "[global]\nindex-url = https://pip.example/\ncert = /ca.pem\n")
    assert _for_uv(home, **{name: "1"}) == {"SSL_CERT_FILE": "/ca.pem"}


def test_uvs_own_configuration_file_is_obeyed(home: Path) -> None:
    _pip_conf(home, "[global]\nindex-url = https://pip.example/\n")
    _pip_conf(home, "no-index = true\n", ".config/uv/uv.toml")
    assert _for_uv(home) == {}


def test_the_bundle_of_requests_is_handed_over_and_uvs_own_kept(home: Path) -> None:
    assert _from_variables(home, REQUESTS_CA_BUNDLE="/r.pem") == {"SSL_CERT_FILE": "/r.pem"}
    assert _from_variables(home, REQUESTS_CA_BUNDLE="/r.pem", PIP_CERT="/p.pem") == {
        "SSL_CERT_FILE": "/p.pem"}
    assert _from_variables(home, PIP_CERT="/p.pem", SSL_CERT_FILE="/own.pem") == {}


def test_what_would_lead_uv_astray_is_taken_out(home: Path) -> None:
    result = uv_environment(_environ(home, PYTHONPATH="/x", PYTHONHOME="/x", VIRTUAL_ENV="/x",
                                     CONDA_PREFIX="/x", PATH="/bin", LANG="C"))
    assert set(result) - set(uv_environment(_environ(home))) == {"PATH", "LANG"}
    assert (result["PATH"], result["LANG"]) == ("/bin", "C")


def test_the_environment_that_is_given_is_not_changed(home: Path) -> None:
    given = _environ(home, PIP_INDEX_URL="https://a.example/", PYTHONPATH="/x")
    before = dict(given)
    uv_environment(given)
    assert given == before


@pytest.mark.parametrize(("name", "value", "expected"), [
    ("UV_DEFAULT_INDEX", "https://me:secret@a.example/simple", {"a.example": ("me", "secret")}),
    ("UV_INDEX_URL", "https://me:se%40cr%2Fet@a.example:8443/", {"a.example": ("me", "se@cr/et")}),
    ("UV_DEFAULT_INDEX", "https://token@a.example/simple", {"a.example": ("token", "")}),
    ("UV_EXTRA_INDEX_URL", "https://a:1@a.example/ https://b.example/ https://c:3@c.example/",
     {"a.example": ("a", "1"), "c.example": ("c", "3")}),
    ("UV_INDEX", "internal=https://me:secret@a.example/simple other=https://b.example/",
     {"a.example": ("me", "secret")}),
    ("UV_DEFAULT_INDEX", "https://a.example/simple", {}),
    ("UV_DEFAULT_INDEX", "https://[::1", {}),
])
def test_credentials_are_taken_out_of_index_urls(
    name: str, value: str, expected: dict[str, tuple[str, str]]
) -> None:
    assert credentials({name: value}) == expected


def test_uv_finds_a_package_where_pip_would(home: Path, tmp_path: Path) -> None:
    """The whole way: pip.conf names a folder, and uv resolves from it."""
    wheel(tmp_path / "wheels", "only-here", "1.0")
    _pip_conf(home, f"[global]\nno-index = true\nfind-links = {tmp_path / 'wheels'}\n")
    environ = uv_environment(_environ(home, PATH=os.environ["PATH"], UV_OFFLINE="1"))
    done = subprocess.run(
        [uv.find_uv_bin(), "pip", "compile", "--quiet", "--no-header", "--no-annotate", "-"],
        input="only-here", env=environ, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "only-here==1.0", done.stderr
