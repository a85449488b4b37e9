"""What every request passes: who may ask, and how much they may send."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Sequence
from secrets import compare_digest
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdcore.server.errors import failure

__all__ = ["Guard", "is_loopback"]

_OPEN = ("/", "/health", "/internal/ping")  # they tell nothing of anybody
_METHODS = "GET, POST, OPTIONS"


class Guard:
    """Answers OPTIONS, by which clients ask whether there is a server; asks for one of `keys`, if
    there are any; answers pages of its own and of `origins` alone; and takes no body of more than
    `most` bytes."""

    def __init__(
        self, app: ASGIApp, keys: Sequence[str], origins: Sequence[str], most: int
    ) -> None:
        self._app, self._origins, self._most = app, origins, most
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, path = Headers(scope=scope), scope["path"]
        if scope["method"] == "OPTIONS":
            await Response(status_code=204, headers={"Allow": _METHODS})(scope, receive, send)
        elif path not in _OPEN and not self._may(headers.get("authorization", "")):
            message = "this server asks for its key: send it as Bearer, or as the password of Basic"
            await failure(path, 401, message)(scope, receive, send)
        elif "*" not in self._origins and not self._is_own(scope, headers):
            message = "pages of this address may not ask: start the server with --cors and it"
            await failure(path, 403, message)(scope, receive, send)
        elif int(headers.get("content-length") or 0) > self._most:
            await failure(path, 413, self._too_large())(scope, receive, send)
        else:
            await self._app(scope, self._counted(receive), send)

    def _may(self, authorization: str) -> bool:
        kind, _, value = authorization.partition(" ")
        given = [value.strip().encode("latin-1")]
        if kind.lower() == "basic":
            try:
                both = base64.b64decode(value, validate=True)
            except ValueError:
                return False
            given = [both, both.partition(b":")[2]]  # a key may be "user:password" itself
        elif kind.lower() != "bearer":
            given = [b""]
        # All are compared, so that the time tells nothing.
        same = [compare_digest(one, key) for one in given for key in self._keys]
        return not self._keys or any(same)

    def _is_own(self, scope: Scope, headers: Headers) -> bool:
        """Whether no page asks, or one of this server's or of `origins`. A form of any page can be
        posted without asking before; and a page whose name is made to mean this machine (DNS
        rebinding) shows by its Host, where nobody else can reach the server and no key is asked."""
        host, origin = headers.get("host", ""), headers.get("origin")
        known = (None, *self._origins)
        if origin not in known and urlsplit(origin or "").netloc != host:
            return False
        here = scope.get("server") or ("", None)
        hosts = {urlsplit(origin).netloc for origin in self._origins}
        if self._keys or host in hosts or not is_loopback(here[0]):
            return True
        return is_loopback(urlsplit(f"//{host}").hostname or "localhost")

    def _counted(self, receive: Receive) -> Receive:
        left = self._most

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, self._too_large())
            return message

        return counted

    def _too_large(self) -> str:
        return f"the request has more than {self._most / 2**20:g} MiB"


def is_loopback(host: str) -> bool:
    """Whether only this machine has this name or address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
