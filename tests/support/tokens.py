"""A token server for a real registry: what it hands out is signed, and soon expires.

Source: distribution's token.md and jwt.md. docker-registry allows a minute for clocks that differ,
so a token that is to live for a second ends, on paper, 59 seconds ago.
"""

from __future__ import annotations

import base64
import json
import subprocess
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.adapters.double import Answer, Request
from tests.support.services import need

SERVICE, ISSUER = "test registry", "test issuer"
_LEEWAY = 60


def _plain(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Tokens:
    """Answers for a Double. `life` is a token's in seconds; `said` what its server says of it.

    Without `user` everyone gets what they ask for.
    """

    def __init__(self, folder: Path, *, life: float, said: int | None = None,
                 user: tuple[str, str] | None = None, identity: str = "") -> None:
        self.certificate = folder / "tokens.crt"
        self._key = folder / "tokens.key"
        self._life = life
        self._said = said
        self._user = user
        self._identity = identity
        self.given: list[str] = []
        subprocess.run(
            [need("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout",
             str(self._key), "-out", str(self.certificate), "-days", "2", "-subj", "/CN=tokens"],
            check=True, capture_output=True)

    def auth(self, realm: str) -> str:
        """The registry's settings for this token server."""
        return (f"auth: {{token: {{realm: '{realm}', service: {SERVICE}, issuer: {ISSUER}, "
                f"rootcertbundle: '{self.certificate}'}}}}\n")

    def __call__(self, request: Request) -> Answer:
        query = parse_qs(request.body.decode() if request.method == "POST"
                         else urlsplit(request.path).query)
        if request.method == "POST":
            allowed = (query["grant_type"] == ["refresh_token"]
                       and query["refresh_token"] == [self._identity])
        else:
            allowed = self._user is None or request.headers.get("authorization") == (
                "Basic " + base64.b64encode(":".join(self._user).encode()).decode())
        if not allowed:
            return Answer(status=401, body=b'{"details": "hunter2 is wrong"}')
        scopes = [scope for value in query.get("scope", []) for scope in value.split()]
        self.given.append(" ".join(scopes))
        answer: dict[str, str | int] = {
            "access_token" if request.method == "POST" else "token": self._sign(scopes)}
        if self._said is not None:
            answer["expires_in"] = self._said
        return Answer(body=json.dumps(answer).encode())

    def _sign(self, scopes: list[str]) -> str:
        der = "".join(self.certificate.read_text().splitlines()[1:-1])
        now = time.time()
        access = []
        for scope in dict.fromkeys(scopes):
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        head = {"typ": "JWT", "alg": "RS256", "x5c": [der]}
        claims = {"iss": ISSUER, "sub": "user", "aud": SERVICE, "access": access,
                  "nbf": int(now) - 120, "iat": int(now), "jti": str(len(self.given)),
                  "exp": round(now + self._life) - _LEEWAY}
        text = ".".join(_plain(json.dumps(part).encode()) for part in (head, claims))
        signature = subprocess.run(
            [need("openssl"), "dgst", "-sha256", "-sign", str(self._key)], input=text.encode(),
            check=True, capture_output=True).stdout
        return f"{text}.{_plain(signature)}"


