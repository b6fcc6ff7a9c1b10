"""The web server of the page: static files, and a JSON interface to the sessions."""

import contextlib
import json
import math
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from ..io.errors import InputError
from .exports import EXPORTS
from .guard import refusal
from .images import CROP_SIDE, encoded, shown_name
from .session import NotOpen, Session
from .sessions import Sessions, TooManySessions

STATIC = Path(__file__).parent / "static"
MAX_JSON_BYTES = 65536  # of a request that is not an upload
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class TooLarge(InputError):
    """A request has more bytes than are allowed."""


def build_app(
    sessions: Sessions, *, about: str, loopback: bool, examples: Callable[[], Mapping[str, bytes]] | None = None
) -> Starlette:
    """The page of these sessions.

    Args:
        about: the model, as the page shows it.
        loopback: the server listens on a loopback address only; see `guard`.
        examples: makes image files, by name, that the page offers to open; None: it offers none.
    """
    handlers = _Handlers(sessions, about, examples)
    session, category = "/api/{token}", "/api/{token}/categories/{category:int}"
    routes = [
        Route("/", _page),
        Route("/api/sessions", handlers.begin, methods=["POST"]),
        Route(session, handlers.state),
        Route(f"{session}/images", handlers.upload, methods=["POST"]),
        Route(f"{session}/examples", handlers.open_examples, methods=["POST"]),
        Route(f"{session}/images/{{image:int}}", handlers.remove_image, methods=["DELETE"]),
        Route(f"{session}/images/{{image:int}}/{{size}}", handlers.image),
        Route(f"{session}/categories", handlers.add_category, methods=["POST"]),
        Route(category, handlers.change_category, methods=["PATCH"]),
        Route(category, handlers.remove_category, methods=["DELETE"]),
        Route(f"{category}/references", handlers.add_reference, methods=["POST"]),
        Route(f"{category}/references/{{reference:int}}", handlers.crop),
        Route(f"{category}/references/{{reference:int}}", handlers.remove_reference, methods=["DELETE"]),
        Route(f"{category}/finds/{{image:int}}", handlers.finds, methods=["POST"]),
        Route(f"{session}/export/{{kind}}", handlers.export),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    errors: Mapping[Any, Any] = {
        TooLarge: _answer(413),
        ValueError: _answer(400),
        NotOpen: _answer(404),
        TooManySessions: _answer(503),
        Exception: _unexpected,
    }

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        sessions.close()

    guard = Middleware(_Guard, loopback=loopback)
    return Starlette(routes=routes, middleware=[guard], exception_handlers=errors, lifespan=lifespan)


class _Handlers:
    """Requests of the JSON interface; those that are not `async` run in threads."""

    def __init__(self, sessions: Sessions, about: str, examples: Callable[[], Mapping[str, bytes]] | None) -> None:
        self.sessions, self.about, self.examples = sessions, about, examples

    def _session(self, request: Request) -> Session:
        return self.sessions.get(request.path_params["token"])

    def begin(self, request: Request) -> Response:
        token = self.sessions.create()
        return JSONResponse({"session": token} | self._state(self.sessions.get(token)), 201)

    def state(self, request: Request) -> Response:
        return JSONResponse(self._state(self._session(request)))

    def _state(self, session: Session) -> dict[str, Any]:
        return session.state() | {"about": self.about, "examples": self.examples is not None}

    async def upload(self, request: Request) -> Response:
        session = self._session(request)
        name = shown_name(request.query_params.get("name", ""))
        limit = session.limits
        content = await read_body(request, limit.upload_bytes, lambda size: limit.check_bytes(size, name))
        return JSONResponse(await run_in_threadpool(session.add_image, content, name), 201)

    def open_examples(self, request: Request) -> Response:
        session = self._session(request)
        for name, content in (self.examples() if self.examples else {}).items():
            session.add_image(content, name)
        return JSONResponse(self._state(session), 201)

    def image(self, request: Request) -> Response:
        image = self._session(request).image(request.path_params["image"])
        content, kind = image.thumbnail if request.path_params["size"] == "thumbnail" else image.view()
        return Response(content, media_type=kind, headers={"Cache-Control": "private, max-age=3600"})

    def remove_image(self, request: Request) -> Response:
        session = self._session(request)
        session.remove_image(request.path_params["image"])
        return JSONResponse(self._state(session))

    async def add_category(self, request: Request) -> Response:
        values = await read_values(request, name=str)
        return JSONResponse(self._session(request).add_category(values.get("name", "")), 201)

    async def change_category(self, request: Request) -> Response:
        values = await read_values(request, name=str, threshold=float)
        return JSONResponse(self._session(request).change_category(request.path_params["category"], **values))

    def remove_category(self, request: Request) -> Response:
        session = self._session(request)
        session.remove_category(request.path_params["category"])
        return JSONResponse(self._state(session))

    async def add_reference(self, request: Request) -> Response:
        session, category = self._session(request), request.path_params["category"]
        values = await read_values(request, image=int, box=_box)
        if set(values) != {"image", "box"}:
            raise InputError("reference: expected the keys image and box")
        record = await run_in_threadpool(session.add_reference, category, values["image"], values["box"])
        return JSONResponse(record, 201)

    def crop(self, request: Request) -> Response:
        parameters = request.path_params
        reference = self._session(request).reference(parameters["category"], parameters["reference"])
        content, kind = encoded(reference.crop, CROP_SIDE)
        return Response(content, media_type=kind, headers={"Cache-Control": "private, max-age=3600"})

    def remove_reference(self, request: Request) -> Response:
        parameters = request.path_params
        record = self._session(request).remove_reference(parameters["category"], parameters["reference"])
        return JSONResponse(record)

    def finds(self, request: Request) -> Response:
        parameters = request.path_params
        return JSONResponse(self._session(request).finds_record(parameters["category"], parameters["image"]))

    def export(self, request: Request) -> Response:
        kind = request.path_params["kind"]
        if kind not in EXPORTS:
            raise NotOpen(f"download {kind!r}: expected one of {', '.join(EXPORTS)}")
        name, media_type, make = EXPORTS[kind]
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(make(self._session(request)), media_type=media_type, headers=headers)


async def _page(_: Request) -> Response:
    return FileResponse(STATIC / "index.html", media_type="text/html")


async def read_body(request: Request, limit: int, check: Callable[[int], None]) -> bytes:
    """The body of a request, read no further than `limit` bytes; `check` raises ValueError for a size that is more."""
    announced = request.headers.get("content-length", "")
    size = int(announced) if announced.isdecimal() else 0
    content = bytearray()
    if size <= limit:
        async for chunk in request.stream():
            content += chunk
            size = max(size, len(content))
            if size > limit:
                break
    try:
        check(size)
    except ValueError as error:
        raise TooLarge(str(error)) from error
    return bytes(content)


async def read_values(request: Request, **kinds: Callable[[Any], Any]) -> dict[str, Any]:
    """The values of a JSON object in the body of a request, each made by the function for its key.

    Raises:
        ValueError: the body is no JSON object, or has another key or a value of another kind; names it.
    """

    def check(size: int) -> None:
        if size > MAX_JSON_BYTES:
            raise InputError(f"request of {size} bytes: expected {MAX_JSON_BYTES} or fewer")

    body = await read_body(request, MAX_JSON_BYTES, check)
    try:
        content = json.loads(body or b"{}")
    except ValueError as error:
        raise InputError(f"request: not JSON ({error})") from error
    if not isinstance(content, dict) or not set(content) <= set(kinds):
        raise InputError(f"request: expected a JSON object with the keys {', '.join(kinds)}")
    values = {}
    for key, value in content.items():
        try:
            values[key] = kinds[key](value)
        except (TypeError, ValueError) as error:
            raise InputError(f"request: {key} = {value!r} is of the wrong kind") from error
    return values


def _box(value: Any) -> list[float]:
    box = [float(edge) for edge in value]
    if len(box) != 4 or not all(map(math.isfinite, box)):
        raise InputError("expected four finite numbers")
    return box


def _answer(status: int) -> Callable[[Request, Exception], Response]:
    """A function that answers an exception with its text."""

    def answer(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error.args[0] if error.args else error)}, status)

    return answer


def _unexpected(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"the program failed ({type(error).__name__}); its log says more"}, 500)


class _Guard:
    """Refuses the requests of other sites, and adds headers that keep the page to itself."""

    def __init__(self, app: ASGIApp, *, loopback: bool) -> None:
        self.app, self.loopback = app, loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        reason = refusal(scope["method"], headers, loopback=self.loopback)

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                more = {name.lower().encode(): value.encode() for name, value in _HEADERS.items()}
                message["headers"] = [*message["headers"], *(item for item in more.items() if item[0] not in given)]
            await send(message)

        if reason:
            await JSONResponse({"error": reason}, 403)(scope, receive, send_with_headers)
        else:
            await self.app(scope, receive, send_with_headers)
