"""What is read out of maintainer scripts, as Debian's packages write them; and what is not."""

from __future__ import annotations

import random

import pytest

from toolchain.layer.postinst import Offer, Read, read
from toolchain.layer.shell import NotShell
from toolchain.layer.shell.parser import LARGEST, parse


def _read(text: str, *files: str, unknown: bool = False) -> Read:
    """`files` are those of the image; the others are not there, or not known."""
    return read("#!/bin/sh\nset -e\n" + text, "tool", "arm64",
                lambda path: path in files or (None if unknown else False))


def _names(found: Read) -> list[tuple[str, str, int]]:
    assert found.notes == ()
    return [(offer.name, offer.path, offer.priority) for offer in found.offers]


def test_a_call_over_many_lines_with_slaves() -> None:
    assert _read("""
case "$1" in
  configure|abort-upgrade)
    update-alternatives --quiet --install /usr/bin/awk awk \\
      /usr/bin/gawk 10 --slave /usr/bin/nawk nawk /usr/bin/gawk \\
      --slave /usr/share/man/man1/awk.1.gz 'awk.1.gz' "/usr/share/man/man1/gawk.1.gz"
  ;;
  *) echo "unknown \\`$1'" >&2; exit 1 ;;
esac
""").offers == (Offer(link="/usr/bin/awk", name="awk", path="/usr/bin/gawk", priority=10, slaves={
        "nawk": ("/usr/bin/nawk", "/usr/bin/gawk"),
        "awk.1.gz": ("/usr/share/man/man1/awk.1.gz", "/usr/share/man/man1/gawk.1.gz")}),)


_CALL = "update-alternatives --install /usr/bin/a a /usr/bin/b 1"


@pytest.mark.parametrize("text", [
    f'if [ "$1" = configure ] || [ "$1" = abort-upgrade ]; then {_CALL}; fi',
    f'if [ "$1" != configure ]; then exit 0; fi\n{_CALL}',
    f'if test -n "$2"; then exit 0; fi; {_CALL}',
    f'ua() {{\n  {_CALL} || true\n}}\ncase "$1" in (configure) ua ;; (*) exit 1;; esac',
    f'[ "$(uname -s)" = "Linux" ] && {_CALL}',
    f'if which update-alternatives > /dev/null 2>&1; then\n{_CALL}\nfi',
    f'if dpkg --compare-versions "$2" lt-nl 1.0; then exit 0; fi\n{_CALL}',
    f'cat > /etc/x <<EOF\nif then ( "\nEOF\n{_CALL}',
    f'if [ -d /run/systemd/system ]; then exit 0\nelif ! [ -e /usr/bin/b ]; then exit; fi\n{_CALL}',
    "x=/usr/bin; y=b; update-alternatives --install ${x}/a a $x/$y ${PRIORITY:-1}",
    "for i in a; do for j in b; do update-alternatives --install /usr/bin/$i $i /usr/bin/$j 1; "
    "done; done",
    "set -- a b; shift; update-alternatives --install /usr/bin/a a /usr/bin/$1 1",
    "update-alternatives --install $(echo /usr/bin/a a `echo /usr/bin/b`) 1",
    f"systemctl start x | while read y; do exit 0; done\n{_CALL}",
    f"(exit 0)\n{_CALL}",
    f"break\n{_CALL}",
    f"while foo; do bar; done\n# {_CALL} 2\n{_CALL}",
])
def test_it_is_found_whatever_it_stands_in(text: str) -> None:
    assert _names(_read(text, "/usr/bin/b")) == [("a", "/usr/bin/b", 1)]


@pytest.mark.parametrize("text", [
    f'if [ "$1" = remove ]; then {_CALL}; fi',
    f"exit 0\n{_CALL}",
    f"return 0\n{_CALL}",
    f'if dpkg --compare-versions "$2" gt 1.0; then {_CALL}; fi',
    f"if [ -x /usr/bin/none ]; then {_CALL}; fi",
    f"echo {_CALL}",
    f"cat <<-X\n\t{_CALL}\n\tX\n",
    f": '{_CALL}'",
    "update-alternatives --remove a /usr/bin/b",
])
def test_what_would_not_run_is_no_offer(text: str) -> None:
    found = _read(text)
    assert (found.offers, found.notes) == ((), ())


@pytest.mark.parametrize("text", [
    f"if some-program; then {_CALL}; fi",
    f"some-program && {_CALL}",
    f"if some-program; then exit 0; fi; {_CALL}",
    f". /usr/share/debconf/confmodule\ndb_get tool/x\nif [ \"$RET\" = true ]; then {_CALL}; fi",
    "update-alternatives --install /usr/bin/a a /usr/bin/b $(expr 1 + 1)",
    "update-alternatives --install /usr/bin/a a /usr/bin/b $((1 + 1))",
    "update-alternatives --install /usr/bin/a a /usr/bin/b ${X%.*}",
    f"if [ -e /etc/x ]; then {_CALL}; fi",
    f"cat /etc/x | while read i; do {_CALL}; done",
    'case "$(some-program)" in x) ' + _CALL + " ;; esac",
    f"{_CALL} --slave",
    "update-alternatives --install /usr/bin/a ../../a /usr/bin/b 1",
    "update-alternatives --install /usr/bin/a a /usr/../../b 1",
    "update-alternatives --install usr/bin/a a /usr/bin/b 1",
    "update-alternatives --install /usr/bin/a a /usr/bin/b one",
    f"if true; then {_CALL}",
    "f() { f; }; f; " + _CALL,
    "x=" + "y" * 1000 + "; for i in 1 2 3 4 5 6 7 8 9 a b c d e f; do x=$x$x; done; " + _CALL,
    "for i in " + "1 " * 300 + "; do for j in " + "1 " * 300 + f"; do :; done; done; {_CALL}",
    "x=" + "y" * 60000 + "; z=" + "$x" * 60000 + "; " + _CALL,
    "[ " + "! " * 5000 + "x ]; " + _CALL,
    "(" * 500 + _CALL,
    "$(" * 500 + _CALL,
    "`" + _CALL,
    "#" * (LARGEST + 1) + "\n" + _CALL,
])
def test_what_cannot_be_told_is_a_note_that_names_the_package(text: str) -> None:
    found = _read(text, unknown=True)
    assert found.offers == ()
    assert len(found.notes) == 1
    assert found.notes[0].startswith("tool: its script ")


def test_another_language_is_a_note() -> None:
    found = read(f"#!/usr/bin/perl\nsystem '{_CALL}';\n", "tool", "amd64", lambda _: True)
    assert found.notes == ("tool: its script is not understood (not a shell script), so links "
                           "that update-alternatives would make are missing",)
    assert read("#!/usr/bin/perl\n", "tool", "amd64", lambda _: True).notes == ()


def test_the_machine_asked_about_is_the_images() -> None:
    assert _names(_read("""
arch=$(dpkg-architecture -qDEB_HOST_MULTIARCH)
update-alternatives --install /usr/lib/$arch/libx.so.3 libx.so.3-$arch \\
    /usr/lib/$arch/x/libx.so.3 10
if [ "$DPKG_MAINTSCRIPT_ARCH" != $(dpkg --print-architecture) ]; then exit 1; fi
update-alternatives --install /usr/bin/a a /usr/bin/b 3
""")) == [("libx.so.3-aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu/x/libx.so.3", 10),
          ("a", "/usr/bin/b", 3)]


def test_a_function_that_writes_the_slaves() -> None:
    """As xz-utils does it."""
    assert _read("""
slave () {
	dir=$1 filename=$2 target=$3
	echo "--slave $dir/$filename $filename $dir/$target"
}
update-alternatives --install /usr/bin/lzma lzma /usr/bin/xz 20 $(
	slave /usr/bin unlzma unxz
	for util in cat more
	do
		slave /usr/bin lz$util xz$util
	done
)
""").offers[0].slaves == {"unlzma": ("/usr/bin/unlzma", "/usr/bin/unxz"),
                          "lzcat": ("/usr/bin/lzcat", "/usr/bin/xzcat"),
                          "lzmore": ("/usr/bin/lzmore", "/usr/bin/xzmore")}


def test_a_loop_whose_slave_depends_on_a_file() -> None:
    """As openjdk does it."""
    found = _read("""
basedir=/usr/lib/jvm/java
tools='java keytool'
case "$1" in
configure)
    if [ -z "$2" ]; then update_alternatives=y; fi
    if [ "$update_alternatives" = y ]; then
    for i in $tools; do
        unset slave1 || true
        if [ -e $basedir/man/$i.1.gz ]; then
            slave1="--slave \\
                /usr/share/man/man1/$i.1.gz \\
                $i.1.gz \\
                $basedir/man/$i.1.gz"
        fi
        update-alternatives --install /usr/bin/$i $i $basedir/bin/$i 1711 $slave1
    done
    fi
    ;;
esac
""", "/usr/lib/jvm/java/man/java.1.gz")
    assert _names(found) == [("java", "/usr/lib/jvm/java/bin/java", 1711),
                             ("keytool", "/usr/lib/jvm/java/bin/keytool", 1711)]
    assert [list(offer.slaves) for offer in found.offers] == [["java.1.gz"], []]


def test_what_else_it_would_do_is_told_apart() -> None:
    found = _read("adduser --system tool\ndpkg-divert --remove /x\n")
    assert (found.offers, found.notes) == ((), ())
    assert found.undone == ("tool: its script would make a user with adduser; that is not done",)


def test_a_damaged_script_is_read_or_refused() -> None:
    """Whatever it is, there is an answer, and soon."""
    chance = random.Random(7)
    whole = f"""case "$1" in
(configure|x*) for i in a "b $2"; do [ -e /x ] && f $i `echo \\`y\\`` | g >/dev/null 2>&1; done ;;
esac
f() {{ local a=${{1:-z}}; if ! test "$a" = 1 -o -n '$b'; then {_CALL} $(f <<E
text
E
); elif true; then while read x; do shift; set -- $@; done; else return; fi; }}
{_CALL}
"""
    for _ in range(3000):
        text = list(whole)
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(len(text))
            text[at:at + chance.randrange(4)] = chance.choice(
                ["", "(", ")", "'", '"', "`", "$(", "${", "}", ";;", "\n", "<<", "#", "\\", "$x"])
        try:
            _read("".join(text), "/x")
        except Exception as error:
            raise AssertionError("".join(text)) from error


@pytest.mark.parametrize("text", ["if", "fi", "'", '"', "`", "$(", "${", "a (", "case x in",
                                  "for", "for x", "for x in a", "<", "a |", "&& a", ")", ";;"])
def test_half_a_script_is_refused(text: str) -> None:
    with pytest.raises(NotShell):
        parse(text)
