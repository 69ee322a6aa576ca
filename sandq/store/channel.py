"""An open connection as an asyncio protocol: one exchange at a time, with no streams in between.

redis-py connects, greets and authenticates. Reading through its streams would then cost more CPU time than all the rest
of an exchange: here one callback parses what came, and one future wakes whoever waits.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import hiredis
import redis
from redis import connection as blocking
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sandq.errors import ConfigError

_PIECE_BYTES = 1 << 16  # kept for reading into: a transport that makes its own takes 256 KiB anew for every reply
_MORE = object()  # what the parser says when a reply is not complete
_ENDED = "connection closed by server"
_LATE = "no answer in time"
_SURPLUS = "the server sent more than it was asked for"

_error_of: Any = blocking.DefaultParser.parse_error  # NOSCRIPT and the like to redis-py's classes


class Channel(asyncio.BufferedProtocol):
    """Brings every exchange its own replies or an error; after anything but the replies asked for it is closed."""

    def __init__(self, transport: asyncio.Transport) -> None:
        """From here on everything that `transport` receives comes here."""
        self.is_open = True
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._piece = memoryview(bytearray(_PIECE_BYTES))  # a view, because TLS fills it slice by slice
        self._parser: Any = hiredis.Reader(protocolError=InvalidResponse, replyError=_error_of, notEnoughData=_MORE)
        self._answer: asyncio.Future[list[Any]] | None = None  # the exchange under way
        self._replies: list[Any] = []
        self._missing = 0
        self._refusal: ResponseError | None = None
        self._deadline = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        transport.set_protocol(self)

    @property
    def is_ready(self) -> bool:
        """Open, and nothing is awaited: what comes next belongs to the next exchange."""
        return self.is_open and self._answer is None

    def ask(self, packed: bytes, count: int, deadline: float) -> asyncio.Future[list[Any]]:
        """Send, and bring `count` replies by `deadline` (the loop's clock); an error reply is raised after the last."""
        if not self.is_ready:
            raise RedisConnectionError("the connection is closed, or an exchange is under way")
        self._answer = answer = self._loop.create_future()
        self._replies, self._missing, self._refusal = [], count, None
        self._deadline = deadline
        # One timer for many exchanges: setting and cancelling one for each costs a fifth of the exchange.
        if self._alarm is None or deadline < self._alarm.when():
            self._set_alarm()
        self._transport.write(packed)
        return answer

    def close(self) -> None:
        """Close at once; an exchange under way ends as if its time were up."""
        self._end(RedisTimeoutError(_LATE))

    # -- what the transport calls --------------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """Where to read into."""
        return self._piece

    def buffer_updated(self, nbytes: int) -> None:
        """Parse what was read."""
        if not self.is_open:
            return
        try:
            self._parser.feed(self._piece, 0, nbytes)
            while self._missing:
                reply = self._parser.gets()
                if reply is _MORE:
                    return
                self._take(reply)
        except RedisError as error:
            self._end(error)
            return
        if self._parser.has_data() or self._answer is None:
            # Which of the replies is the surplus one cannot be told, so none of them is given to anybody.
            self._end(RedisConnectionError(_SURPLUS))
            return
        answer, self._answer = self._answer, None
        if answer.cancelled():
            return
        if self._refusal is not None:
            answer.set_exception(self._refusal)
        else:
            answer.set_result(self._replies)

    def eof_received(self) -> None:
        """The server will send nothing more."""
        self._end(RedisConnectionError(_ENDED))

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        error = RedisConnectionError(f"connection lost: {exc}" if exc else _ENDED)
        error.__cause__ = exc
        self._end(error)

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _take(self, reply: Any) -> None:
        if not isinstance(reply, Exception):
            self._replies.append(reply)
        elif isinstance(reply, ResponseError):
            self._refusal = self._refusal or reply
        else:
            raise reply  # such as LOADING: redis-py takes it for an error of the connection
        self._missing -= 1

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_at(self._deadline, self._ring)

    def _ring(self) -> None:
        """The time of the exchange under way is up, or of one before it: then this one gets an alarm of its own."""
        self._alarm = None
        if self._answer is None:
            return
        if self._loop.time() < self._deadline:
            self._set_alarm()
        else:
            self._end(RedisTimeoutError(_LATE))

    def _end(self, error: RedisError) -> None:
        if not self.is_open:
            return
        self.is_open = False
        if self._alarm is not None:
            self._alarm.cancel()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        self._transport.abort()  # not close: that would still send what is left of a request nobody waits for


def take_over(connection: Any) -> Channel:
    """A channel over what redis-py has connected, which must be kept: forgotten, it closes its transport.

    The one place that looks into redis-py's connection.
    """
    reader, writer = getattr(connection, "_reader", None), getattr(connection, "_writer", None)
    if not isinstance(reader, asyncio.StreamReader) or not isinstance(writer, asyncio.StreamWriter):
        raise ConfigError(f"redis-py {redis.__version__} is too new for this sandq; install 'redis<9'")
    if reader.at_eof() or writer.transport.is_closing():
        raise RedisConnectionError(_ENDED)
    channel = Channel(cast(asyncio.Transport, writer.transport))
    reader.feed_eof()  # nobody else feeds it any more, so that it is at its end if nothing is left in it
    if not reader.at_eof():
        raise RedisConnectionError(_SURPLUS)
    return channel
