"""Connections to the upstream: kept ones that it closes, bodies that break off, and compressed ones."""

import asyncio
import gzip
import socket
import struct

import aiohttp
import pytest

from sdpo.gateway.upstream import Upstream, UpstreamError, blocks_of

REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Server:
    """Answers the first request of each connection, and ends the second as `end` says; `dead` ends every one."""

    def __init__(self, end: str, dead: bool = False) -> None:
        self.end, self.dead, self.requests = end, dead, 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(2):
            await reader.readuntil(b"\r\n\r\n")
            self.requests += 1
            if number == 0 and not self.dead:
                writer.write(REPLY)
                await writer.drain()
                continue
            if self.end == "reset":  # no linger: the client reads ECONNRESET
                connection = writer.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.close()
            return


async def two_requests(server: Server) -> list[int]:
    listening = await asyncio.start_server(server, "127.0.0.1", 0)
    upstream = Upstream(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1", None, 5.0)
    try:
        statuses = []
        for _ in range(2):
            response = await upstream.send("POST", "/v1/chat/completions", [], b"{}")
            await upstream.read(response)
            statuses.append(response.status)
        return statuses
    finally:
        await upstream.close()
        listening.close()


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_request_on_a_connection_that_was_closed_is_sent_again(end):
    server = Server(end)
    assert asyncio.run(two_requests(server)) == [200, 200]
    assert server.requests == 3


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_server_that_closes_every_connection_is_asked_twice_and_no_more(end):
    server = Server(end, dead=True)
    with pytest.raises(UpstreamError) as caught:
        asyncio.run(two_requests(server))
    assert caught.value.status == 502 and server.requests == 2


@pytest.mark.parametrize("untouched", [False, True])
def test_what_came_before_a_body_broke_off_is_passed_on(untouched):
    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n9\r\nthr")
        writer.close()

    async def read() -> tuple[bytes, Exception | None]:
        listening = await asyncio.start_server(broken, "127.0.0.1", 0)
        upstream = Upstream(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1", None, 5.0)
        response, got = await upstream.send("POST", "/v1/x", [], b"{}", untouched=untouched), b""
        await asyncio.sleep(0.2)  # the end has come before anything is read
        try:
            async for block in blocks_of(response):
                got += block
        except aiohttp.ClientError as error:
            return got, error
        finally:
            await upstream.close()
            listening.close()
        return got, None

    got, error = asyncio.run(read())
    assert got.startswith(b"onetwo") and error is not None


def test_a_compressed_body_is_read_decompressed_and_passed_on_as_it_came():
    body = gzip.compress(b'{"data": []}')

    async def compressed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async def read() -> list[bytes]:
        listening = await asyncio.start_server(compressed, "127.0.0.1", 0)
        upstream = Upstream(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1", None, 5.0)
        try:
            return [
                await upstream.read(await upstream.send("GET", "/v1/models", [], None, untouched=untouched))
                for untouched in (False, True)
            ]
        finally:
            await upstream.close()
            listening.close()

    assert asyncio.run(read()) == [b'{"data": []}', body]
