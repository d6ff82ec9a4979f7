"""Globus Auth: tokens for client credentials and refresh tokens, consents, expiry, revoked secrets."""

import base64
import json
import re
import threading
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from globus_emulator.web import Refusal, Request, Web

_NAMED = {"transfer.api.globus.org": "transfer.api.globus.org", "facd7ccc-c5f4-42aa-916b-a0e270e2c2a9": "funcx_service"}
_UUID = re.compile(r"scopes/([0-9a-f-]{36})/")


class Auth:
    """Who may do what."""

    def __init__(self, web: Web, folder: Path, *, secret: str = "secret", lifetime_s: float = 172_800.0) -> None:
        self.secret, self.lifetime_s = secret, lifetime_s
        self._path = folder / "tokens.json"
        self._lock = threading.Lock()
        self._tokens: dict[str, dict[str, Any]] = json.loads(self._path.read_text()) if self._path.exists() else {}
        self.withheld: set[str] = set()
        web.route("POST", "/v2/oauth2/token", self._token)

    def check(self, request: Request, server: str) -> None:
        """Refuse a request without a token that is valid for this server."""
        with self._lock:
            token = self._tokens.get(request.token)
        if token is None or token["expires_s"] < time.time() or token["server"] != server:
            error = {"code": "AuthenticationFailed", "message": "Token is not active"}
            raise Refusal(401, {**error, "error": error, "request_id": "1", "resource": request.path})

    def consented(self, request: Request, scope: str) -> bool:
        """Whether the request's token carries a consent."""
        with self._lock:
            return scope in self._tokens[request.token]["scopes"] and scope not in self.withheld

    def expire(self) -> None:
        """End all tokens now."""
        with self._lock:
            for token in self._tokens.values():
                token["expires_s"] = 0.0

    def _token(self, request: Request) -> tuple[int, Any]:
        form = {name: values[0] for name, values in parse_qs(request.raw.decode()).items()}
        basic = (request.headers.get("Authorization") or "").removeprefix("Basic ")
        if base64.b64decode(basic).decode().partition(":")[2] != self.secret:
            raise Refusal(401, {"error": "invalid_client", "errors": [{"code": "UNAUTHORIZED"}]})
        by_server: dict[str, list[str]] = {}
        for scope in _split(form["scope"]):
            names = re.findall(r"[^\[\] *]+", scope)
            by_server.setdefault(_server(names[0]), []).extend(names)
        tokens = [self._made(server, scopes) for server, scopes in by_server.items()]
        with self._lock:
            self._path.write_text(json.dumps(self._tokens))
        return 200, {**tokens[0], "other_tokens": tokens[1:], "state": None}

    def _made(self, server: str, scopes: list[str]) -> dict[str, Any]:
        token = f"token-{uuid.uuid4().hex}"
        with self._lock:
            self._tokens[token] = {"server": server, "scopes": scopes, "expires_s": time.time() + self.lifetime_s}
        granted = " ".join(scopes)
        made = {"access_token": token, "scope": granted, "expires_in": int(self.lifetime_s), "token_type": "Bearer"}
        return {**made, "resource_server": server}


def _split(text: str) -> list[str]:
    """Scopes apart, each with what stands in brackets behind it."""
    found, depth, word = [], 0, ""
    for character in text + " ":
        depth += {"[": 1, "]": -1}.get(character, 0)
        if character == " " and depth == 0:
            found += [word] if word else []
            word = ""
        else:
            word += character
    return found


def _server(scope: str) -> str:
    for part, server in _NAMED.items():
        if part in scope:
            return server
    named = _UUID.search(scope)
    if named and ("flow_" in scope or scope.endswith("/https")):
        return named[1]
    return "flows.globus.org"
