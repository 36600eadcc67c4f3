"""What every request passes before the application: identity, accounting, key and size of body.

Plain ASGI callables: a wrapper that buffers or spawns a task per request would cost every token.
"""

import hashlib
import hmac
import logging
import re
import time
import uuid
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError

OPEN_PATHS = frozenset(
    ("/health", "/ping", "/ready", "/version", "/metrics", "/docs", "/openapi.json")
)
KNOWN_PATHS = OPEN_PATHS | frozenset(
    (
        *("/v1/chat/completions", "/v1/completions", "/v1/estimate", "/v1/tiers", "/v1/models"),
        *("/tokenize", "/detokenize"),
        *("/admin/replicas", "/admin/resize", "/admin/restart", "/admin/tiers"),
    )
)
ADMIN = "/admin"
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")

log = logging.getLogger("hfx.serve.access")


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header called `name` (lower case)."""
    return next((value for key, value in scope["headers"] if key == name), None)


async def answer(error: ApiError, send: Send) -> None:
    """Send an error as a whole response."""
    headers = [(b"content-type", b"application/json")]
    headers += [(key.encode(), value.encode()) for key, value in error.headers.items()]
    headers.append((b"content-length", str(len(error.body)).encode()))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": error.body})


class Trace:
    """Outermost: X-Request-Id in and out, and one call of `count` and one log line per response.

    It also strips the path under which a proxy serves us, and lets HEAD be asked wherever GET may.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        root_path: str,
        count: Callable[[str, str, int], None],
        log_requests: bool,
    ) -> None:
        self._app = app
        self._root_path = root_path.rstrip("/")
        self._count = count
        self._log_requests = log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = header(scope, b"x-request-id")
        known = given is not None and _REQUEST_ID.fullmatch(given) is not None
        request_id = given if known and given else uuid.uuid4().hex.encode()
        scope = {**scope, "request_id": request_id.decode("ascii"), "path": self._path(scope)}
        if scope["method"] == "HEAD":  # the server drops the body: it goes by its own scope
            scope["method"] = "GET"
        started_s, status = time.monotonic(), 0

        async def traced(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        try:
            await self._app(scope, receive, traced)
        finally:
            self._account(scope, status, time.monotonic() - started_s)

    def _path(self, scope: Scope) -> str:
        """The path as routes know it, whether or not a proxy has stripped its prefix."""
        path: str = scope["path"]
        is_ours = self._root_path and path.startswith(self._root_path + "/")
        return path.removeprefix(self._root_path) if is_ours else path

    def _account(self, scope: Scope, status: int, duration_s: float) -> None:
        status = status or 499  # the client left before there was an answer
        self._count(scope["method"], scope["path"], status)
        if self._log_requests:
            log.info(
                "%s %s %r %d %.0f ms",
                scope["request_id"],
                scope["method"],
                scope["path"],
                status,
                duration_s * 1000,
            )


class Guard:
    """Refuses requests without a key (401), bodies that are too large (413) or encoded (415).

    `/admin` has keys of its own, and is not there (404) where there are none.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        api_keys: tuple[str, ...],
        max_bytes: int,
        admin_keys: tuple[str, ...] = (),
    ) -> None:
        self._app = app
        self._digests = [_digest(key.encode()) for key in api_keys]
        self._admin_digests = [_digest(key.encode()) for key in admin_keys]
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except ApiError as error:
            await answer(error, send)
            return
        await self._app(scope, self._bounded(receive), send)

    def _check(self, scope: Scope) -> None:
        path = scope["path"]
        if path == ADMIN or path.startswith(ADMIN + "/"):
            self._check_admin(scope)
        elif self._digests and path not in OPEN_PATHS and not _has(self._digests, scope):
            raise _no_key("the API key is", "invalid_api_key")
        encoding = header(scope, b"content-encoding")
        if encoding not in (None, b"", b"identity"):
            raise ApiError(415, "content-encoding must be identity: send the body uncompressed")
        length = header(scope, b"content-length")
        if length is not None and length.isdigit() and int(length[:20]) > self._max_bytes:
            raise self._too_large(int(length[:20]))

    def _check_admin(self, scope: Scope) -> None:
        if not self._admin_digests:
            raise ApiError(
                404,
                "/admin is not enabled: start the server with --admin-key KEY (or HFX_ADMIN_KEY)",
                code="admin_disabled",
            )
        if not _has(self._admin_digests, scope):
            raise _no_key(
                "/admin has a key of its own (--admin-key), which is", "invalid_admin_key"
            )

    def _bounded(self, receive: Receive) -> Receive:
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise self._too_large(received)
            return message

        return bounded

    def _too_large(self, size: int) -> ApiError:
        return ApiError(
            413,
            f"the body has {size} bytes or more: at most {self._max_bytes} are accepted "
            "(--max-request-bytes)",
            code="body_too_large",
        )


def _has(digests: list[bytes], scope: Scope) -> bool:
    """Whether a request brings one of these keys; takes as long whichever it is."""
    scheme, _, key = (header(scope, b"authorization") or b"").partition(b" ")
    given = _digest(key.strip())
    matches = [hmac.compare_digest(given, digest) for digest in digests]
    return scheme.lower() == b"bearer" and any(matches)


def _no_key(which: str, code: str) -> ApiError:
    return ApiError(
        401,
        f"{which} missing or wrong: send 'Authorization: Bearer KEY'",
        code=code,
        headers={"www-authenticate": "Bearer"},
    )


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
