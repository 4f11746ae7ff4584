"""Images into a real Docker engine and out of it; what the engine sends is distrusted."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import socket
import subprocess
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.double import Answer, Double, Request
from tests.support.services import docker_client, lacking, need, need_root
from toolchain import bundle, load
from toolchain.adapters.docker_engine import DockerEngine, EngineImage
from toolchain.adapters.docker_save import SavedImage
from toolchain.digest import Digest, canonical_json
from toolchain.errors import EngineError, RegistryError
from toolchain.image import MANIFEST, Image
from toolchain.image import make as image_make
from toolchain.layer import Layer
from toolchain.progress import Progress
from toolchain.store import Store


@pytest.fixture
def client() -> Any:
    return docker_client()


@pytest.fixture
def name(client: Any) -> Iterator[str]:
    """A repository of the test's own; what has its name is removed at the end."""
    repository = f"toolchain-test/{uuid.uuid4().hex[:12]}"
    yield repository
    for image in client.images.list(repository):
        client.images.remove(image.id, force=True)


@pytest.fixture
def engine() -> DockerEngine:
    return DockerEngine(os.environ)


@pytest.fixture
def fetch(store: Store) -> bundle.Fetch:
    return lambda digest, size: iter([store.read(digest)])


@pytest.fixture
def unlike() -> Callable[[str], str]:
    """Makes texts that no image of the engine holds yet."""
    unique = uuid.uuid4().hex[:8]
    return lambda text: f"{text} {unique}"


# into the engine


def test_only_the_layers_after_the_common_ones_are_sent(
    engine: DockerEngine, client: Any, name: str, make_image: Callable[..., Image],
    fetch: bundle.Fetch, unlike: Callable[[str], str],
) -> None:
    def put(image: Image, tag: str) -> tuple[int, bool]:
        done = load.make(image, (f"{name}:{tag}", f"{name}:also-{tag}"), engine, fetch, Progress())
        loaded = client.images.get(f"{name}:{tag}")
        assert loaded.id == client.images.get(f"{name}:also-{tag}").id
        assert loaded.id == str(image.config_digest)
        assert loaded.attrs["RootFS"]["Layers"] == [str(item.diff_id) for item in image.layers]
        return done.layers, done.there

    base = (unlike("system"), unlike("packages"))
    first = make_image(*base, unlike("code"))
    assert put(first, "first") == (3, False)
    assert put(first, "again") == (0, True)
    assert put(make_image(*base, unlike("other code")), "code") == (1, False)
    assert put(make_image(*base), "base") == (0, False)
    assert put(make_image(unlike("nothing in common"), unlike("code")), "apart") == (2, False)
    # The same layers above another one are other layers to the engine.
    assert put(make_image(unlike("new system"), *base), "above") == (3, False)
    assert put(make_image(*base, base[0]), "twice") == (1, False)


def test_layers_that_vanish_while_they_are_counted_on_are_sent_after_all(
    client: Any, name: str, make_image: Callable[..., Image], fetch: bundle.Fetch,
    unlike: Callable[[str], str],
) -> None:
    class Losing(DockerEngine):
        """Somebody removes the image with the common layers right after it was found."""

        def shared(self, image: Image) -> int:
            found = super().shared(image)
            client.images.remove(f"{name}:base", force=True)
            return found

    engine = Losing(os.environ)
    load.make(make_image(unlike("a"), unlike("b")), (f"{name}:base",), DockerEngine(os.environ),
              fetch, Progress())
    image = make_image(unlike("a"), unlike("b"), unlike("c"))
    assert load.make(image, (f"{name}:new",), engine, fetch, Progress()).layers == 3
    assert client.images.get(f"{name}:new").id == str(image.config_digest)


def test_a_blob_that_cannot_be_had_loads_nothing(
    engine: DockerEngine, name: str, make_image: Callable[..., Image],
    unlike: Callable[[str], str],
) -> None:
    image = make_image(unlike("a"), unlike("b"))

    def broken(digest: Digest, size: int) -> Iterator[bytes]:
        yield b"half"
        raise RegistryError("gone")

    with pytest.raises(RegistryError, match="gone"):
        load.make(image, (f"{name}:one",), engine, broken, Progress())
    assert engine.find(image) is None
    assert engine.shared(image) == 0


def test_what_the_engine_says_against_an_archive_is_told(
    engine: DockerEngine, name: str, make_image: Callable[..., Image],
    unlike: Callable[[str], str],
) -> None:
    image = make_image(unlike("a"))
    with pytest.raises(EngineError, match="the Docker engine refused: ") as caught:
        load.make(image, (f"{name}:one",), engine, lambda _, size: iter([bytes(size)]),
                  Progress())
    assert caught.value.where.startswith("POST /images/load at ")
    assert caught.value.fix


def test_a_full_disk_of_the_engine_is_explained(
    make_image: Callable[..., Image], fetch: bundle.Fetch, name: str,
) -> None:
    need_root("start an engine on a small disk")
    # Not pytest's folder: a socket's path has at most 107 characters.
    with tempfile.TemporaryDirectory() as folder, SmallEngine(Path(folder)) as address:
        engine = DockerEngine({"DOCKER_HOST": address})
        image = make_image(os.urandom(6_000_000).hex())
        with pytest.raises(EngineError) as caught:
            load.make(image, (f"{name}:one",), engine, fetch, Progress())
    assert "no space left on device" in caught.value.what
    assert caught.value.fix == ("make room on the engine's disk: `docker system df`, "
                                "`docker system prune`")


class SmallEngine:
    """A Docker engine of the test's own, on a disk of 8 MB; its address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "engine"

    def __enter__(self) -> str:
        self.folder.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", self.folder],
                          capture_output=True).returncode:
            lacking("no mounting here")
        address = f"unix://{self.folder.parent}/d.sock"
        self.log = open(self.folder.parent / "dockerd.log", "w")
        try:
            self.process = subprocess.Popen(
                ["/usr/sbin/dockerd", "--data-root", self.folder / "data", "--exec-root",
                 self.folder.parent / "exec", "--pidfile", self.folder.parent / "pid", "--host",
                 address, "--bridge", "none", "--iptables=false", "--storage-driver", "vfs"],
                stdout=self.log, stderr=subprocess.STDOUT)
        except OSError:
            self._unmount()
            lacking("no dockerd on this machine")
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            try:
                DockerEngine({"DOCKER_HOST": address}).shared(image_make((), "0", "linux/amd64"))
                return address
            except EngineError:
                time.sleep(0.2)
        self.__exit__()
        raise AssertionError((self.folder.parent / "dockerd.log").read_text()[-2000:])

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.log.close()
        self._unmount()

    def _unmount(self) -> None:
        subprocess.run(["umount", "-l", self.folder], check=False)


def test_containerd_takes_the_whole_file_and_not_a_part_of_it(
    tmp_path: Path, made: Image, store: Store, fetch: bundle.Fetch,
) -> None:
    """What decides in an engine that keeps its images in containerd's store."""
    need_root("start containerd")
    name = "mlflow/trainer:one"
    attached = _note(made, store)
    for kind, without in (("part", frozenset({made.layers[0].digest})), ("whole", frozenset())):
        what = bundle.make(made, (name,), without, (attached,) if kind == "whole" else ())
        (tmp_path / f"{kind}.tar").write_bytes(b"".join(bundle.pieces(what, fetch)))
    with containerd(tmp_path) as ctr:
        part = subprocess.run([*ctr, "images", "import", tmp_path / "part.tar"],
                              capture_output=True, text=True)
        assert part.returncode != 0
        assert f"{made.layers[0].digest}: not found" in part.stderr
        subprocess.run([*ctr, "images", "import", tmp_path / "whole.tar"], check=True,
                       capture_output=True)
        listed = subprocess.run([*ctr, "images", "list"], capture_output=True, text=True,
                                check=True)
    assert f"docker.io/{name} " in listed.stdout
    assert str(made.digest) in listed.stdout


def _note(image: Image, store: Store) -> bundle.Attached:
    """Something that is attached to an image, its blobs in the store."""
    empty, note = b"{}", b'{"bomFormat": "CycloneDX"}'
    manifest = canonical_json({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/vnd.cyclonedx+json",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json",
                   "digest": str(store.put(empty)), "size": len(empty)},
        "layers": [{"mediaType": "application/vnd.cyclonedx+json",
                    "digest": str(store.put(note)), "size": len(note)}],
        "subject": {"mediaType": MANIFEST, "digest": str(image.digest),
                    "size": len(image.manifest)}})
    return bundle.Attached.of(manifest)


@contextlib.contextmanager
def containerd(folder: Path) -> Iterator[list[str]]:
    """A containerd of the test's own; the command that speaks to it."""
    (folder / "containerd.toml").write_text(
        f'version = 2\nroot = "{folder}/root"\nstate = "{folder}/state"\n'
        'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f'[grpc]\naddress = "{folder}/c.sock"\n')
    ctr = [need("ctr"), "--address", f"{folder}/c.sock"]
    with open(folder / "containerd.log", "w") as log:
        process = subprocess.Popen([need("containerd"), "--config", folder / "containerd.toml"],
                                   stdout=log, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 30
        while subprocess.run([*ctr, "version"], capture_output=True).returncode:
            assert time.monotonic() < end, (folder / "containerd.log").read_text()[-2000:]
            time.sleep(0.1)
        yield ctr
    finally:
        process.terminate()
        process.wait(30)


# engines that are not as this machine's


def answering(answers: dict[str, Any]) -> Callable[[Request], Answer]:
    """An engine's answers by the end of the request's path; 404 for what is not among them."""
    def answer(request: Request) -> Answer:
        path = request.path.partition("?")[0]
        for end, body in answers.items():
            if path.endswith(end):
                return Answer(body=json.dumps(body).encode(),
                              headers={"Content-Type": "application/json"})
        return Answer(status=404, body=b'{"message": "no such thing"}',
                      headers={"Content-Type": "application/json"})

    return answer


VERSION = {"Version": "28.1.0", "ApiVersion": "1.41", "Os": "linux", "Arch": "amd64"}


def at(double: Double) -> DockerEngine:
    return DockerEngine({"DOCKER_HOST": f"tcp://{double.host}"})


def test_an_engine_with_containerds_store_gets_every_layer(
    serve: Callable[..., Double], make_image: Callable[..., Image],
) -> None:
    """As such an engine describes itself; it knows an image by its manifest's digest."""
    image = make_image("one", "two")
    described = {"Id": str(image.digest),
                 "RootFS": {"Layers": [str(layer.diff_id) for layer in image.layers]}}
    answers = {"/version": VERSION, "/images/json": [{"Id": str(image.digest)}],
               f"/images/{image.digest}/json": described}
    with_driver = {"DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]}
    containerds = at(serve(answering({**answers, "/info": with_driver})))
    assert containerds.shared(image) == 0
    assert containerds.find(image) == str(image.digest)
    classic = at(serve(answering({**answers, "/info": {"DriverStatus": [["x", "y"]]}})))
    assert classic.shared(image) == 2


@pytest.mark.parametrize(("version", "refused"), [("20.10.24+dfsg1", True), ("23.0.1", False)])
def test_zstd_layers_are_for_engines_that_read_them(
    serve: Callable[..., Double], made: Image, version: str, refused: bool,
) -> None:
    engine = at(serve(answering({"/version": {**VERSION, "Version": version}})))
    engine.check(made)
    first = made.layers[0]
    zstd = Layer(digest=first.digest, diff_id=first.diff_id, size=first.size, label="x",
                 media_type="application/vnd.oci.image.layer.v1.tar+zstd")
    image = image_make((zstd,), "1000", "linux/amd64")
    if refused:
        with pytest.raises(EngineError, match=r"Docker 20\.10\.24.* does not read layers"):
            engine.check(image)
    else:
        engine.check(image)


def test_an_image_for_another_platform_is_refused(serve: Callable[..., Double]) -> None:
    engine = at(serve(answering({"/version": VERSION})))
    with pytest.raises(EngineError, match="an image for linux/arm64 does not run") as caught:
        engine.check(image_make((), "1000", "linux/arm64"))
    assert caught.value.fix.startswith("build it with image.platform=linux/amd64; ")


def test_an_engine_that_breaks_off_is_explained(
    serve: Callable[..., Double], made: Image, store: Store,
) -> None:
    healthy = answering({"/version": VERSION, "/info": {}, "/images/json": []})
    double = serve(lambda request: Answer(hang_up=True) if request.path.endswith("/images/load")
                   else healthy(request))
    with pytest.raises(EngineError, match="the Docker engine broke off") as caught:
        load.make(made, ("a/b:c",), at(double), lambda digest, _: iter([store.read(digest)]),
                  Progress())
    assert caught.value.where == f"POST /images/load at tcp://{double.host}"
    assert "its disk may be full" in caught.value.fix


def test_a_password_in_the_engines_address_is_not_shown() -> None:
    engine = DockerEngine({"DOCKER_HOST": "tcp://user:secret@127.0.0.1:1"})
    with pytest.raises(EngineError, match="no Docker engine answers") as caught:
        engine.inspect("x")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("address", ["nonsense://x", "unix:///nowhere.sock", "tcp://127.0.0.1:1"])
def test_an_address_where_no_engine_is(address: str) -> None:
    with pytest.raises(EngineError, match="no Docker engine answers") as caught:
        DockerEngine({"DOCKER_HOST": address}).inspect("x")
    assert caught.value.where == address
    assert "DOCKER_HOST" in caught.value.fix


def test_dockers_current_context_names_the_engine(tmp_path: Path, monkeypatch: Any) -> None:
    identity = hashlib.sha256(b"elsewhere").hexdigest()
    folder = tmp_path / "docker"
    (folder / "contexts/meta" / identity).mkdir(parents=True)
    (folder / "contexts/meta" / identity / "meta.json").write_text(json.dumps({
        "Name": "elsewhere", "Metadata": {},
        "Endpoints": {"docker": {"Host": os.environ.get("DOCKER_HOST", ""),
                                 "SkipTLSVerify": False}}}))
    (folder / "config.json").write_text('{"currentContext": "elsewhere"}')
    docker_client()
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    assert DockerEngine(os.environ).shared(image_make((), "0", "linux/amd64")) == 0


def test_a_context_that_is_not_there_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with pytest.raises(EngineError, match="the current Docker context does not exist") as caught:
        DockerEngine({"DOCKER_CONTEXT": "nowhere"}).inspect("x")
    assert "docker context ls" in caught.value.fix


def test_without_permission_it_says_how_to_get_it(tmp_path: Path) -> None:
    need_root("become someone else")
    path = str(tmp_path / "d.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        os.chmod(path, 0o600)
        engine = DockerEngine({"DOCKER_HOST": f"unix://{path}"})
        with pytest.raises(EngineError):  # loads what it needs, as root
            DockerEngine({"DOCKER_HOST": "tcp://127.0.0.1:1"}).inspect("x")
        os.seteuid(65534)
        try:
            with pytest.raises(EngineError, match="no permission to use the Docker engine") as no:
                engine.inspect("x")
        finally:
            os.seteuid(0)
    assert no.value.where == f"unix://{path}"
    assert no.value.fix.startswith("add your user to the group")


# out of the engine


def gone_through(saved: SavedImage) -> dict[Digest, bytes]:
    found = {}
    for layer in saved.layers():
        data = b""
        while piece := layer.read(1000):
            data += piece
        found[layer.diff_id] = data
    return found


def test_a_built_image_comes_out_whole(
    engine: DockerEngine, client: Any, name: str, unlike: Callable[[str], str], tmp_path: Path,
) -> None:
    (tmp_path / "a").write_text(unlike("a"))
    (tmp_path / "b").write_bytes(os.urandom(3_000_000))
    (tmp_path / "Dockerfile").write_text(
        "FROM scratch\nCOPY a /\nCOPY b /\nENV GREETING=hello\nWORKDIR /work\nUSER 7\n")
    client.images.build(path=str(tmp_path), tag=f"{name}:built", network_mode="none",
                        rm=True, forcerm=True)
    described = engine.inspect(f"{name}:built")
    assert described.platform == "linux/amd64"
    assert "GREETING=hello" in described.config["Env"]
    assert (described.config["User"], described.config["WorkingDir"]) == ("7", "/work")
    saved = engine.saved(described)
    layers = gone_through(saved)
    assert set(layers) == set(described.diff_ids)
    assert all(Digest.of(data) == diff_id for diff_id, data in layers.items())
    assert Digest.of(saved.config) == described.id
    with tarfile.open(fileobj=io.BytesIO(layers[described.diff_ids[1]])) as archive:
        stream = archive.extractfile("b")
        assert stream is not None
        assert stream.read() == (tmp_path / "b").read_bytes()


def test_an_imported_image_comes_out_and_layers_need_not_be_read(
    engine: DockerEngine, client: Any, name: str, unlike: Callable[[str], str],
) -> None:
    data = tar({"file": unlike("x").encode()})
    client.api.import_image_from_data(data, repository=name, tag="imported")
    described = engine.inspect(f"{name}:imported")
    saved = engine.saved(described)
    (layer,) = saved.layers()
    assert layer.diff_id == described.diff_ids[0]
    assert json.loads(saved.config)["rootfs"]["diff_ids"] == [str(layer.diff_id)]


def test_an_image_with_one_layer_twice_comes_out(
    engine: DockerEngine, name: str, make_image: Callable[..., Image], fetch: bundle.Fetch,
    unlike: Callable[[str], str],
) -> None:
    image = make_image(unlike("a"), unlike("b"), unlike("a"))
    load.make(image, (f"{name}:twice",), engine, fetch, Progress())
    described = engine.inspect(f"{name}:twice")
    assert described.diff_ids[0] == described.diff_ids[2]
    saved = engine.saved(described)
    assert set(gone_through(saved)) == set(described.diff_ids)
    assert saved.config == image.config


def test_an_image_that_is_not_there(engine: DockerEngine) -> None:
    docker_client()
    with pytest.raises(EngineError, match="the Docker engine has no image 'no/such:image'"):
        engine.inspect("no/such:image")


# archives as engines write them, and as none should


def tar(files: dict[str, bytes], *extra: tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path, data in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in extra:
            archive.addfile(info)
    return stream.getvalue()


def layout(*blobs: bytes) -> bytes:
    """An archive of blobs, each under its digest."""
    return tar({blob(data): data for data in blobs})


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


LAYERS = [tar({"one": b"1" * 5000}), tar({"two": b"2" * 100})]
DIFF_IDS = tuple(Digest.of(data) for data in LAYERS)
CONFIG = json.dumps({"rootfs": {"diff_ids": [str(item) for item in DIFF_IDS]}}).encode()
CONFIG_DIGEST = Digest.of(CONFIG)


def blob(data: bytes) -> str:
    return f"blobs/sha256/{Digest.of(data).hex}"


def opened(archive: bytes, image_id: Digest = CONFIG_DIGEST, *,
           diff_ids: tuple[Digest, ...] = DIFF_IDS, **options: int) -> SavedImage:
    pieces = (archive[start:start + 3000] for start in range(0, len(archive), 3000))
    return SavedImage(pieces, image_id, diff_ids, "here", **options)


def classic(**changes: bytes) -> dict[str, bytes]:
    return {"a/VERSION": b"1.0", "a/layer.tar": LAYERS[1], "b/layer.tar": LAYERS[0],
            f"{CONFIG_DIGEST.hex}.json": CONFIG, "manifest.json": b"[]", **changes}


def test_dockers_own_form_is_read() -> None:
    saved = opened(tar(classic(), member("a", tarfile.DIRTYPE),
                       member("c/layer.tar", tarfile.SYMTYPE, "../a/layer.tar")))
    assert gone_through(saved) == dict(zip(DIFF_IDS, LAYERS, strict=True))
    assert saved.config == CONFIG


def in_members(data: bytes) -> bytes:
    return gzip.compress(data[:700]) + gzip.compress(data[700:])


@pytest.mark.parametrize("pack", [bytes, gzip.compress, in_members])
def test_the_oci_form_is_read(pack: Callable[[bytes], bytes]) -> None:
    """As Docker 25 and later write it; with containerd's store, layers are as they were pulled,
    and the image's ID is that of a manifest, or of an index of manifests."""
    packed = [pack(data) for data in LAYERS]
    manifest = json.dumps({"config": {"digest": str(CONFIG_DIGEST)}}).encode()
    index = json.dumps({"manifests": [{"digest": "sha256:0"}, None,
                                      {"digest": str(Digest.of(manifest))}]}).encode()
    data = tar({blob(item): item for item in (*packed, CONFIG, manifest, index)}
               | {"index.json": b"{}", "oci-layout": b"{}"})
    for image_id in (CONFIG_DIGEST, Digest.of(manifest), Digest.of(index)):
        saved = opened(data, image_id)
        assert gone_through(saved) == dict(zip(DIFF_IDS, LAYERS, strict=True))
        assert saved.config == CONFIG


def test_before_a_layer_is_read_its_digest_is_not_told() -> None:
    saved = opened(tar(classic()))
    layers = saved.layers()
    stream = next(layers)
    stream.read(10)
    with pytest.raises(ValueError, match="not read to its end"):
        _ = stream.diff_id
    with pytest.raises(ValueError, match="not gone through"):
        _ = saved.config


OTHER = tar({"other": b"o"})
LIE = json.dumps({"rootfs": {"diff_ids": []}}).encode()


@pytest.mark.parametrize(("archive", "message"), [
    (tar(classic(**{"b/layer.tar": OTHER})), "a layer that is not the image's: sha256:"),
    (tar({k: v for k, v in classic().items() if k != "b/layer.tar"}), "lacks 1 layers"),
    (tar({}), "lacks 2 layers"),
    (tar({k: v for k, v in classic().items() if not k.startswith(CONFIG_DIGEST.hex)}),
     "no config that fits"),
    (tar(classic(**{f"{CONFIG_DIGEST.hex}.json": CONFIG + b" "})), "not what its name says"),
    (tar({blob(CONFIG): CONFIG, f"blobs/sha256/{'0' * 64}": LAYERS[1]}), "not what its name says"),
    (tar({**classic(), "../a": b""}), "leaves it: '../a'"),
    (tar({**classic(), "a/../../b": b""}), "leaves it"),
    (tar({**classic(), "/etc/passwd": b""}), "leaves it: '/etc/passwd'"),
    (tar(classic(), member("x", tarfile.SYMTYPE, "../y")), "leaves it: 'x'"),
    (tar(classic(), member("x", tarfile.SYMTYPE, "/y")), "leaves it: 'x'"),
    (tar(classic(), member("x", tarfile.LNKTYPE, "../y")), "leaves it: 'x'"),
    (tar(classic(), member("x", tarfile.CHRTYPE)), "no file: 'x'"),
    (tar(classic(), member("x", tarfile.FIFOTYPE)), "no file: 'x'"),
    (tar(classic())[:6000], "not an archive of an image"),
    (b"no tar at all" * 1000, "not an archive of an image"),
    (tar({**classic(), "manifest.json": bytes(9 << 20)}), "a document that is too large"),
    (layout(gzip.compress(LAYERS[0])[:-4]), "is cut short"),
    (layout(b"\x1f\x8b" + bytes(600)), "a damaged layer"),
    (layout(b"\x28\xb5\x2f\xfd" + bytes(600)), "zstd"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_not_as_it_should_be_is_refused(archive: bytes, message: str) -> None:
    with pytest.raises(EngineError) as caught:
        gone_through(opened(archive))
    assert message in str(caught.value)
    assert caught.value.where == "here"


def test_a_config_of_other_layers_is_refused() -> None:
    archive = tar({**classic(), f"{Digest.of(LIE).hex}.json": LIE})
    with pytest.raises(EngineError, match="no config that fits"):
        gone_through(opened(archive, Digest.of(LIE)))


def test_a_decompression_bomb_is_cut_off() -> None:
    zeros = gzip.compress(bytes(50 << 20))
    diff_id = Digest.of(bytes(50 << 20))
    saved = opened(tar({blob(zeros): zeros}), diff_ids=(diff_id,), largest=4 << 20)
    layers = saved.layers()
    layer = next(layers)
    assert len(layer.read(2 << 20)) == 2 << 20
    with pytest.raises(EngineError, match="larger than an image may be"):
        layer.read(3 << 20)


def test_headers_do_not_fill_the_memory() -> None:
    """A pax header says itself how long it is, and a reader keeps it whole."""
    header = member("x", tarfile.XHDTYPE)
    header.size = 1 << 40

    def endless() -> Iterator[bytes]:
        yield header.tobuf(tarfile.GNU_FORMAT)
        for _ in range(100):
            yield bytes(1 << 20)
        raise AssertionError("read on and on")

    saved = SavedImage(endless(), CONFIG_DIGEST, DIFF_IDS, "here")
    with pytest.raises(EngineError, match="headers that are too large"):
        gone_through(saved)


def test_the_layers_of_an_engines_image_are_bound_to_what_was_inspected(
    serve: Callable[..., Double],
) -> None:
    """Between the two questions the engine may tell another story."""
    double = serve(lambda request: Answer(
        body=tar(classic(**{"b/layer.tar": OTHER})) if request.path.endswith("/get")
        else json.dumps(VERSION).encode()))
    described = EngineImage(id=CONFIG_DIGEST, diff_ids=DIFF_IDS, platform="linux/amd64", config={})
    with pytest.raises(EngineError, match="a layer that is not the image's"):
        gone_through(at(double).saved(described))
