"""The serving address: the OpenAI API, /healthz and /metrics."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from lmt2.config import Settings
from lmt2.errors import ServingError
from serving import replies
from serving.backend import Backend, Delivery, Piece, QueueFull, RequestRefused
from serving.openai_api import MODELS, ChatRequest, CompletionRequest
from serving.replies import Reply

T = TypeVar("T")
Pieces = AsyncGenerator[tuple[int, Piece], None]
CLIENT_CLOSED_REQUEST = 499  # nobody reads it; for the access log


class UnknownModel(ServingError):
    """The request names a model that isn't served here."""


class ClientGone(ServingError):
    """The client left before its answer was ready."""


def create_app(settings: Settings, backend: Backend, is_ready: Callable[[], bool]) -> FastAPI:
    """The application. It closes the backend when it shuts down.

    Args:
        settings: `serving.max_new_tokens` bounds every answer.
        backend: what answers.
        is_ready: whether the desired version is served; /healthz says 503 while it is not.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await backend.close()

    app = FastAPI(title="LMT² serving", lifespan=lifespan)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(ServingError, _failed)
    _add_operations(app, is_ready)
    most_tokens = settings.serving.max_new_tokens

    @app.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        return await _answer(body, Reply(body.model, is_chat=False), request, backend, most_tokens)

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        return await _answer(body, Reply(body.model, is_chat=True), request, backend, most_tokens)

    return app


def _add_operations(app: FastAPI, is_ready: Callable[[], bool]) -> None:
    @app.get("/healthz")
    def healthz() -> JSONResponse:
        if is_ready():
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "the promoted version is not served yet"}, 503)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return replies.models(MODELS)

    @app.get("/v1/models/{name}")
    def model(name: str) -> dict[str, Any]:
        _check_model(name)
        return replies.model(name)


async def _answer(
    body: CompletionRequest | ChatRequest, reply: Reply, request: Request, backend: Backend, most_tokens: int
) -> Response:
    _check_model(body.model)
    pieces = _collect(backend.submit(body.asks(most_tokens)))
    if not body.stream:
        return JSONResponse(reply.whole(await _unless_gone(request, _gather(pieces))))
    first = await _unless_gone(request, anext(pieces))  # an error before the first piece still gets its own status
    return StreamingResponse(_events(reply, first, pieces, body.wants_usage), media_type="text/event-stream")


async def _collect(deliveries: list[Delivery]) -> Pieces:
    """All pieces, choice after choice; whoever stops listening cancels what is still to come."""
    try:
        for index, delivery in enumerate(deliveries):
            async for piece in delivery:
                yield index, piece
    finally:
        for delivery in deliveries:
            delivery.cancel()


async def _gather(pieces: Pieces) -> dict[int, list[Piece]]:
    found: dict[int, list[Piece]] = {}
    async for index, piece in pieces:
        found.setdefault(index, []).append(piece)
    return found


async def _events(reply: Reply, first: tuple[int, Piece], pieces: Pieces, wants_usage: bool) -> AsyncIterator[bytes]:
    seen: set[int] = set()

    def chunks(index: int, piece: Piece) -> bytes:
        is_first = index not in seen
        seen.add(index)
        return b"".join(map(replies.event, reply.chunks(index, piece, is_first)))

    try:
        yield chunks(*first)
        async for index, piece in pieces:
            yield chunks(index, piece)
        if wants_usage:
            yield replies.event(reply.usage_chunk())
        yield replies.DONE
    except ServingError as error:  # the status is sent already: the error goes into the stream
        yield replies.event(replies.error_body(str(error), "server_error"))
    finally:
        await pieces.aclose()


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The work's result; if the client goes away first, the work is cancelled."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnection(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone("the client went away")
    finally:
        gone.cancel()
        task.cancel()


async def _disconnection(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _check_model(name: str) -> None:
    if name not in MODELS:
        raise UnknownModel(f"the model {name!r} does not exist here: there are {' and '.join(MODELS)}")


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = [(".".join(map(str, e["loc"][1:])), e["msg"].removeprefix("Value error, ")) for e in error.errors()]
    message = "; ".join(f"{place}: {text}" if place else text for place, text in found)
    return JSONResponse(replies.error_body(message, "invalid_request_error", found[0][0].split(".")[0] or None), 400)


async def _failed(_: Request, error: Exception) -> JSONResponse:
    message = str(error)
    match error:
        case UnknownModel():
            return JSONResponse(replies.error_body(message, "invalid_request_error", "model", "model_not_found"), 404)
        case RequestRefused():
            return JSONResponse(replies.error_body(message, "invalid_request_error", code=error.code), 400)
        case QueueFull():
            body = replies.error_body(message, "rate_limit_error", code="queue_full")
            return JSONResponse(body, 429, headers={"Retry-After": "1"})
        case ClientGone():
            return JSONResponse(replies.error_body(message, "client_closed_request"), CLIENT_CLOSED_REQUEST)
        case _:
            return JSONResponse(replies.error_body(message, "server_error"), 500)
