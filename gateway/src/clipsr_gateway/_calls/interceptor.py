"""Interceptor: authenticates and admits a call before its message is read, and runs it.

gRPC's own handlers receive and parse a message before any code of a service runs. Here a call of one message is served
as if its caller streamed, which the wire does not tell apart: the message stays with the caller, held back by HTTP/2's
flow control, until the key is known to be good and memory for it is there; a refused call costs next to nothing.
The services find the call that is made here by `current_call()`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from clipsr_gateway._access.authentication import Authenticator
from clipsr_gateway._admission.controller import Admission, AdmissionConfig
from clipsr_gateway._admission.receiving import ReceivingPlaces
from clipsr_gateway._calls.call import CODES, Call, CallRunner, let_cancellation_come
from clipsr_gateway._calls.status import status_from_error, trailing_metadata
from clipsr_gateway._offload import run_off_loop
from clipsr_gateway._timeout import wait_at_most
from clipsr_gateway.errors import (
    DeadlineExceededError,
    GatewayError,
    InvalidRequestError,
    SlowMessageError,
    UnauthenticatedError,
    Violation,
)

# Load balancers and orchestrators ask for health, and have no key.
_OPEN_SERVICES = ("/grpc.health.v1.Health/",)

# Anybody may ask, so the memory for their questions is small: a question is the name of a service.
_HEALTH_RECEIVING = 4
_HEALTH_QUESTION_BYTES = 1024
_HEALTH_TIMEOUT_S = 5.0

# Streams that wait for questions for as long as the caller likes; a drain does not wait for them.
_REFLECTION_SERVICES = ("/grpc.reflection.",)

# Methods that compute nothing, so that an overload is no reason to refuse them.
_FREE_METHODS = (
    "GetModelInfo",
    "CreateLibrary",
    "DropLibrary",
    "ListLibraries",
    "ListImages",
    "GetImage",
    "UpdateImages",
    "DeleteImages",
)

_Context = grpc.aio.ServicerContext[Any, Any]


class AdmissionInterceptor(grpc.aio.ServerInterceptor):
    """Makes, authenticates and admits the calls of all services but health's, which is open.

    Args:
        runner: counts calls, logs them, and turns errors into statuses.
        authenticator: knows the keys.
        admission: admission control.
        config: how many messages may be received at once, and for how long.
    """

    def __init__(
        self, *, runner: CallRunner, authenticator: Authenticator, admission: Admission, config: AdmissionConfig
    ) -> None:
        self._runner = runner
        self._authenticator = authenticator
        self._admission = admission
        self._read_timeout_s = config.read_timeout_s
        self._health_receiving = ReceivingPlaces(_HEALTH_RECEIVING)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return a handler that stands before the method's own; None, as gRPC wants it, for an unknown method."""
        found = cast("Any", await continuation(handler_call_details))
        path = str(cast("Any", handler_call_details).method)  # annotated as bytes by some releases' stubs, never bytes
        if found is None:
            return found
        method = path.rpartition("/")[2]
        if path.startswith(_OPEN_SERVICES):
            return self._guard_health(found)
        if path.startswith(_REFLECTION_SERVICES):
            return self._guard_reflection(method, found)
        if found.request_streaming:
            return self._guard_stream(method, found)
        return self._guard_message(method, found)

    def _guard_message(self, method: str, found: Any) -> grpc.RpcMethodHandler[Any, Any]:
        behavior = found.unary_stream if found.response_streaming else found.unary_unary

        async def serve(messages: AsyncIterator[bytes], context: _Context) -> Any:
            async with self._runner.run(method, context) as call:
                with self._admitted(call, context):
                    raw = await self._receive(messages, call, context)
                    with self._admission.message(len(raw)):
                        request = await run_off_loop(len(raw), _parse, raw, found.request_deserializer)
                        del raw
                        return await behavior(request, context)

        # A method that streams its answers writes them itself.
        guarded = (
            grpc.stream_stream_rpc_method_handler if found.response_streaming else grpc.stream_unary_rpc_method_handler
        )
        return guarded(serve, response_serializer=found.response_serializer)

    def _guard_health(self, found: Any) -> grpc.RpcMethodHandler[Any, Any]:
        """Bound the memory of a service that asks for no key, is not logged, and answers in the worst overload."""
        behavior = found.unary_stream if found.response_streaming else found.unary_unary

        async def serve(messages: AsyncIterator[bytes], context: _Context) -> Any:
            try:
                async with self._health_receiving.acquire(_host(context), context.peer()):
                    raw = await _next(messages, timeout_s=_HEALTH_TIMEOUT_S)
                    if len(raw) > _HEALTH_QUESTION_BYTES:
                        raise _malformed(f"A health check has at most {_HEALTH_QUESTION_BYTES:,} bytes.")
                request = _parse(raw, found.request_deserializer)
            except GatewayError as error:
                refusal = status_from_error(error, "")
                await context.abort(CODES[refusal.code], refusal.message, tuple(trailing_metadata(refusal)))
            return await behavior(request, context)

        guarded = (
            grpc.stream_stream_rpc_method_handler if found.response_streaming else grpc.stream_unary_rpc_method_handler
        )
        return guarded(serve, response_serializer=found.response_serializer)

    def _guard_stream(self, method: str, found: Any) -> grpc.RpcMethodHandler[Any, Any]:
        async def serve(messages: AsyncIterator[Any], context: _Context) -> None:
            async with self._runner.run(method, context) as call:
                with self._admitted(call, context):
                    await found.stream_stream(messages, context)

        def deserialize(raw: bytes) -> Any:
            return _parse(raw, found.request_deserializer)

        return grpc.stream_stream_rpc_method_handler(
            serve, request_deserializer=deserialize, response_serializer=found.response_serializer
        )

    def _guard_reflection(self, method: str, found: Any) -> grpc.RpcMethodHandler[Any, Any]:
        async def serve(messages: AsyncIterator[Any], context: _Context) -> None:
            try:
                self._authenticator.authenticate(cast("Any", context.invocation_metadata()))
            except UnauthenticatedError as error:
                async with self._runner.run(method, context):
                    raise error
            async for answer in found.stream_stream(messages, context):
                await context.write(answer)

        return grpc.stream_stream_rpc_method_handler(
            serve, request_deserializer=found.request_deserializer, response_serializer=found.response_serializer
        )

    @contextmanager
    def _admitted(self, call: Call, context: _Context) -> Generator[None]:
        """Authenticate the caller, and admit the call before its message is read.

        Raises:
            UnauthenticatedError: there is no valid key.
            LimitedError: the caller has enough calls in progress, or the server has.
        """
        try:
            caller = self._authenticator.authenticate(cast("Any", context.invocation_metadata()))
        except UnauthenticatedError:
            call.fields["peer"] = context.peer()  # the only name there is for a stranger
            raise
        if caller is not None:
            call.caller, call.fields["key"] = caller, caller.name
        with (
            caller.call() if caller else nullcontext(),
            self._admission.call(),
            self._admission.ledger(caller) as ledger,
        ):
            if call.method not in _FREE_METHODS:
                self._admission.check(caller=caller, time_remaining_s=call.time_remaining_s())
            call.ledger = ledger
            yield

    async def _receive(self, messages: AsyncIterator[bytes], call: Call, context: _Context) -> bytes:
        """Return the one message of a call; one that does not come counts against the rate of its caller.

        Raises:
            DeadlineExceededError: it takes longer to arrive than any sensible sender needs.
            SlowMessageError: it takes longer than others can wait for its place.
            InvalidRequestError: there is none.
        """
        left_s = call.time_remaining_s()
        # A call with a nearer deadline is ended by gRPC; a clock of ours would cost it a task and a timer.
        timeout_s = self._read_timeout_s if left_s is None or left_s > self._read_timeout_s else None
        try:
            async with self._admission.receiving.acquire(call.caller or _host(context), context.peer()):
                return await _next(messages, timeout_s=timeout_s)
        except (DeadlineExceededError, SlowMessageError):
            if call.caller is not None:
                call.caller.time_until(1)
            raise


async def _next(messages: AsyncIterator[bytes], *, timeout_s: float | None) -> bytes:
    """Return the one message of a call.

    Raises:
        DeadlineExceededError: it did not arrive in time.
        InvalidRequestError: there is none.
    """
    message = anext(aiter(messages))
    try:
        return await (message if timeout_s is None else wait_at_most(message, timeout_s))
    except asyncio.TimeoutError as cause:
        raise DeadlineExceededError(f"The request did not arrive within {timeout_s:g} s.") from cause
    except StopAsyncIteration as cause:
        await let_cancellation_come()
        raise _malformed("The call holds no request message.") from cause


def _host(context: _Context) -> str:
    """Return the caller's address without its port: all that is known of a caller without a key."""
    return str(context.peer()).rpartition(":")[0]


def _parse(raw: bytes, deserialize: Callable[[bytes], Any]) -> Any:
    """Parse a message.

    Raises:
        InvalidRequestError: it is none; gRPC itself would answer UNKNOWN with a Python exception's text.
    """
    try:
        return deserialize(raw)
    except DecodeError as cause:
        raise _malformed("The request is not a message of this method; it cannot be decoded.") from cause


def _malformed(message: str) -> InvalidRequestError:
    return InvalidRequestError([Violation(field="", reason="MESSAGE_MALFORMED", message=message)])
