"""A process that asks rattler one thing: a request on its input, lines of answers on its output.

A process of its own, since rattler's threads may outlive its answer, and an interpreter that ends
while they still hold its objects crashes. This one ends without finalizing. What a request holds
may be secret, so it comes in no argument.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from rattler import RepoDataRecord
    from rattler.networking import Client

_RETRIES = 3
_DOWNLOADS = 8


def main() -> None:
    request = json.load(sys.stdin)
    try:
        asyncio.run(solve(request) if request["do"] == "solve" else download(request))
    # Whatever rattler raises is told to whoever asked; it has a class for each of its parts.
    except Exception as error:
        _say({"error": type(error).__name__, "text": str(error)})
    os._exit(0)


async def solve(request: dict[str, Any]) -> None:
    """Answer with the records of a solution."""
    import rattler

    sources = [rattler.Channel(item["url"]) for item in request["channels"]]
    folder = Path(request["folder"])
    gateway = rattler.Gateway(cache_dir=folder, client=client(request["channels"]),
                              show_progress=False)
    platforms = [rattler.Subdir(request["subdir"]), rattler.Subdir("noarch")]
    kept = []
    if request["kept"]:
        known = {(file, sha256) for _, file, sha256 in request["kept"]}
        answers = await gateway.query(
            sources, platforms, [name for name, _, _ in request["kept"]], recursive=False,
            channel_relations="disabled")
        kept = [record for answer in answers for record in answer
                if (record.file_name, (record.sha256 or b"").hex()) in known]
    found = await rattler.solve(
        sources, [rattler.MatchSpec(text, strict=False) for text in request["specs"]],
        gateway, platforms, locked_packages=kept, channel_relations="disabled",
        channel_priority=rattler.ChannelPriority.Strict,
        virtual_packages=[rattler.GenericVirtualPackage(
            rattler.PackageName(name), rattler.Version(version), rattler.BuildString(build))
            for name, version, build in request["virtual"]])
    asked = {_known(item["url"]): item["url"] for item in reversed(request["channels"])}
    _say({"records": [{**_record(record), "channel": asked[_known(str(record.channel))]}
                      for record in found]})


async def download(request: dict[str, Any]) -> None:
    """Write files; a line for each that is there."""
    from rattler.package_streaming import download_to_path

    session, turns = client(request["channels"]), asyncio.Semaphore(_DOWNLOADS)

    async def one(number: int, url: str, path: str) -> None:
        async with turns:
            await download_to_path(session, url, Path(path))
        _say({"done": number})

    await asyncio.gather(*(one(number, url, path)
                           for number, (url, path) in enumerate(request["files"])))


def client(channels: list[dict[str, str]]) -> Client:
    """What asks channels: with conda's and rattler's own credentials, and with those given."""
    from rattler.networking import (
        AddHeadersMiddleware,
        AuthenticationMiddleware,
        Client,
        GCSMiddleware,
        MirrorMiddleware,
        OciMiddleware,
        RetryMiddleware,
        S3Middleware,
    )

    places = [(urlsplit(_known(item["url"])), item["header"])
              for item in channels if item["header"]]

    def headers(host: str, path: str) -> dict[str, str] | None:
        for known, header in places:
            if host == known.hostname and f"{path}/".startswith(f"{known.path}/"):
                return {"Authorization": header}
        return None

    mirrors = {_known(item["url"]): [item["real"]] for item in channels if item["real"]}
    return Client([
        *([MirrorMiddleware(mirrors)] if mirrors else []),
        *([AddHeadersMiddleware(headers)] if places else []),
        RetryMiddleware(_RETRIES), AuthenticationMiddleware(), OciMiddleware(),
        GCSMiddleware(), S3Middleware()])


def _known(url: str) -> str:
    """A channel's URL as rattler writes it: host in small letters, path quoted, no default port."""
    import rattler

    return rattler.Channel(url).base_url.rstrip("/")


def _record(record: RepoDataRecord) -> dict[str, Any]:
    return {"name": record.name.normalized, "version": str(record.version),
            "build": str(record.build),
            "subdir": record.subdir, "file": record.file_name, "size": record.size,
            "sha256": record.sha256.hex() if record.sha256 else None,
            "described": {
                "build_number": record.build_number,
                "noarch": ("python" if record.noarch.python
                           else "generic" if record.noarch.generic else ""),
                "depends": list(record.depends), "constrains": list(record.constrains),
                "site_packages": record.python_site_packages_path or ""}}


def _say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()
