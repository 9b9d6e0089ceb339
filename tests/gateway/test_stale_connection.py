"""Connections that the upstream closes while they are kept: a request that takes one is sent once more."""

import asyncio
import socket
import struct

import pytest

from sdpo.gateway.upstream import Upstream, UpstreamError

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
    upstream = Upstream(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1", None, 5.0, 4)
    try:
        statuses = []
        for _ in range(2):
            response = await upstream.send("POST", "/v1/chat/completions", [], b"{}")
            await upstream.read(response)
            statuses.append(response.status_code)
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
