"""An asyncio connection to a server that plays back: late replies, surplus ones, TLS, and what closing does."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hiredis
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sandq.store import link as link_module
from sandq.store.channel import take_over
from sandq.store.link import AsyncLink, pack
from sandq.store.urls import parse_url

if TYPE_CHECKING:
    from conftest import RedisServer

LIMIT_S = 30.0  # nothing here waits for it


class Player:
    """A server that greets like Redis, keeps what it is asked, and says only what a test has it say."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "player.sock"
        self.asked: asyncio.Queue[tuple[list[bytes], asyncio.StreamWriter]] = asyncio.Queue()
        self.is_silent = False
        self.met, self.left = asyncio.Event(), asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader()
        with contextlib.closing(writer), contextlib.suppress(OSError):
            while data := await reader.read(65536):
                self.met.set()
                if self.is_silent:
                    continue
                parser.feed(data)
                while (command := parser.gets()) is not False:
                    if command[0] == b"CLIENT":
                        writer.write(b"+OK\r\n")
                    else:
                        self.asked.put_nowait((command, writer))
        self.left.set()

    async def next(self, wanted: str) -> asyncio.StreamWriter:
        """Where to answer the next request, which must be for `wanted`."""
        command, writer = await self.asked.get()
        assert command == [b"ECHO", wanted.encode()]
        return writer


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for the path of a socket."""
    made = Path(tempfile.mkdtemp(prefix="sq-", dir="/tmp"))
    yield made
    shutil.rmtree(made)


def played(folder: Path, steps: Callable[[Player, AsyncLink], Awaitable[None]]) -> None:
    """Run a test's steps between a link and a player."""

    async def run() -> None:
        player = Player(folder)
        async with asyncio.timeout(LIMIT_S / 2), await asyncio.start_unix_server(player.serve, player.path):
            link = AsyncLink(parse_url(f"unix://{player.path}"), LIMIT_S)
            await steps(player, link)
            await link.close()

    asyncio.run(run())


def echo(link: AsyncLink, text: str, limit_s: float | None = None) -> asyncio.Task[list[Any]]:
    return asyncio.create_task(link.exchange(pack([("ECHO", text)]), 1, "", limit_s))


def test_a_late_reply_never_reaches_the_next_exchange(folder: Path) -> None:
    async def steps(player: Player, link: AsyncLink) -> None:
        first = echo(link, "first")
        slow = await player.next("first")
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        second = echo(link, "second")
        quick = await player.next("second")
        slow.write(b"+first\r\n")
        with contextlib.suppress(ConnectionError):
            await slow.drain()
        quick.write(b"+second\r\n")
        assert await second == [b"second"]
        assert slow is not quick

    played(folder, steps)


def test_an_exchange_that_is_cancelled_while_connecting_closes_what_was_made(folder: Path) -> None:
    async def steps(player: Player, link: AsyncLink) -> None:
        player.is_silent = True
        first = echo(link, "first")
        await player.met.wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await player.left.wait()
        assert not link.has_sent

    played(folder, steps)


def test_a_connection_that_cannot_be_taken_over_is_closed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def steps(player: Player, link: AsyncLink) -> None:
        def refuse(connection: Any) -> Any:
            raise RedisConnectionError("refused")

        monkeypatch.setattr(link_module, "take_over", refuse)
        with pytest.raises(RedisConnectionError, match="refused"):
            await link.exchange(pack([("ECHO", "first")]), 1, "")
        await player.left.wait()

    played(folder, steps)


def test_an_error_reply_costs_no_connection(folder: Path) -> None:
    async def steps(player: Player, link: AsyncLink) -> None:
        first = echo(link, "first")
        writer = await player.next("first")
        writer.write(b"-ERR no\r\n")
        with pytest.raises(ResponseError):
            await first
        second = echo(link, "second")
        assert await player.next("second") is writer
        writer.write(b"+second\r\n")
        assert await second == [b"second"]

    played(folder, steps)


def test_an_exchange_whose_time_is_up_closes_its_connection(folder: Path) -> None:
    async def steps(player: Player, link: AsyncLink) -> None:
        with pytest.raises(RedisTimeoutError, match="no answer in time"):
            await link.exchange(pack([("ECHO", "first")]), 1, "", 0.05)
        slow = await player.next("first")
        second = echo(link, "second")
        quick = await player.next("second")
        assert slow is not quick
        quick.write(b"+second\r\n")
        assert await second == [b"second"]

    played(folder, steps)


def test_after_what_nobody_asked_for_the_next_exchange_has_a_new_connection(folder: Path) -> None:
    async def steps(player: Player, link: AsyncLink) -> None:
        first = echo(link, "first")
        strange = await player.next("first")
        strange.write(b"+first\r\n+surprise\r\n")
        with pytest.raises(RedisConnectionError, match="more than it was asked for"):
            await first
        second = echo(link, "second")
        chatty = await player.next("second")
        assert chatty is not strange
        chatty.write(b"+second\r\n")
        assert await second == [b"second"]
        chatty.write(b"+surprise\r\n")
        await chatty.drain()
        await chatty.wait_closed()  # by the other side, and while nothing was asked
        third = echo(link, "third")
        good = await player.next("third")
        good.write(b"+third\r\n")
        assert await third == [b"third"]

    played(folder, steps)


def test_a_connection_that_was_lost_while_idle_costs_the_next_exchange_nothing(folder: Path) -> None:
    async def steps(player: Player, link: AsyncLink) -> None:
        for text in ("first", "second", "third"):
            exchange = echo(link, text)
            writer = await player.next(text)
            writer.write(f"+{text}\r\n".encode())
            assert await exchange == [text.encode()]
            player.left.clear()
            writer.write_eof()
            await player.left.wait()  # the link has closed its side, while nothing was asked

    played(folder, steps)


def test_a_connection_that_is_lost_under_way_ends_the_exchange(folder: Path) -> None:
    async def steps(player: Player, link: AsyncLink) -> None:
        exchange = echo(link, "first")
        writer = await player.next("first")
        writer.write(b"$5\r\nfir")
        writer.close()
        with pytest.raises(RedisConnectionError, match="closed by server"):
            await exchange

    played(folder, steps)


def test_closing_that_comes_while_connecting_completes_still_ends_the_exchange(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def steps(player: Player, link: AsyncLink) -> None:
        def closed_meanwhile(connection: Any) -> Any:
            with pytest.raises(StopIteration):
                link.close().send(None)  # to its end: nothing is open yet
            return take_over(connection)

        monkeypatch.setattr(link_module, "take_over", closed_meanwhile)
        with pytest.raises(RedisTimeoutError):
            await link.exchange(pack([("ECHO", "first")]), 1, "")

    played(folder, steps)


def test_a_forgotten_link_leaves_no_connection_open(folder: Path) -> None:
    async def steps(player: Player, link: AsyncLink) -> None:
        forgotten = AsyncLink(parse_url(f"unix://{player.path}"), LIMIT_S)
        exchange = echo(forgotten, "first")
        writer = await player.next("first")
        writer.write(b"+first\r\n")
        assert await exchange == [b"first"]
        with pytest.warns(ResourceWarning, match="unclosed Connection"):
            del forgotten, exchange
            gc.collect()
        await writer.wait_closed()

    played(folder, steps)


# -- through TLS, to a real Redis --------------------------------------------------------------------------------------


@pytest.fixture
def certified(tmp_path: Path) -> ssl.SSLContext:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here to make a certificate with")
    cert, key = tmp_path / "cert", tmp_path / "key"
    subject = ["-subj", "/CN=localhost", "-days", "1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject], check=True, stderr=-3)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


@contextlib.asynccontextmanager
async def tls_in_front(of: Path, context: ssl.SSLContext) -> AsyncIterator[str]:
    """The URL of a listener that takes TLS off."""
    tasks: set[asyncio.Task[None]] = set()

    async def forward(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                sink.write(data)
                await sink.drain()
        sink.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = await asyncio.open_unix_connection(of)
        for source, sink in ((reader, upstream[1]), (upstream[0], writer)):
            tasks.add(asyncio.create_task(forward(source, sink)))

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as listener:
        yield f"rediss://localhost:{listener.sockets[0].getsockname()[1]}?ssl_cert_reqs=none&ssl_check_hostname=false"
        await asyncio.gather(*tasks)


def test_exchanges_go_through_tls(server: RedisServer, certified: ssl.SSLContext) -> None:
    large = bytes(range(256)) * 16_384  # 4 MiB: many records, many reads

    async def run() -> None:
        async with asyncio.timeout(LIMIT_S), tls_in_front(server.socket, certified) as url:
            link = AsyncLink(parse_url(url), LIMIT_S)
            for n in range(20):
                assert await link.exchange(pack([("ECHO", str(n))]), 1, "") == [str(n).encode()]
            assert await link.exchange(pack([("SET", "x", large), ("GET", "x")]), 2, "") == [b"OK", large]
            server.pause()
            with pytest.raises(RedisTimeoutError):
                await link.exchange(pack([("ECHO", "late")]), 1, "", 0.05)
            server.resume()
            assert await link.exchange(pack([("ECHO", "next")]), 1, "") == [b"next"]
            with pytest.raises(RedisConnectionError):
                await link.exchange(
                    pack([("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no"), ("BLPOP", "n", "0")]), 2, ""
                )
            assert await link.exchange(pack([("ECHO", "again")]), 1, "") == [b"again"]
            await link.close()

    asyncio.run(run())


def test_large_requests_and_replies_are_exchanged_whole(redis_url: str) -> None:
    large = bytes(range(256)) * 65_536  # 16 MiB

    async def run() -> None:
        link = AsyncLink(parse_url(redis_url), LIMIT_S)
        assert await link.exchange(pack([("ECHO", large), ("ECHO", b"next")]), 2, "") == [large, b"next"]
        await link.close()

    asyncio.run(run())
