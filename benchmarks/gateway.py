"""What the gateway adds to a request, and how many clients it carries.

The server behind it takes 10 ms to begin an answer, and in streams 10 ms for each word.

    python benchmarks/gateway.py [--requests 400] [--clients 256] [--seconds 60] [--store-url sqlite:///FILE]

Each request goes to the server directly and through the gateway in turn, so both see the same machine. The medians are
of the whole answer and, of streams, of the time to the first block. Then all clients ask at once, streaming and not,
for a minute: errors, answers a second, the gateway's work and its memory. The exit code is 1 if any request was not
answered. Server and gateway are processes of their own; the clients read raw HTTP, so that they cost little.
"""

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

WORDS = "a short answer of some words that says a little about otters and where they live".split()  # noqa: SIM905
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n"


async def serve(pause: float) -> None:
    """Answer chat requests until standard input is closed, after a pause; a stream has one between its words too."""
    message = {"role": "assistant", "content": " ".join(WORDS)}
    whole = json.dumps({"choices": [{"index": 0, "message": message}]}).encode()
    events = [
        b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": f"{word} "}}]}).encode() + b"\n\n"
        for word in WORDS
    ]

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                body = await reader.readexactly(int(length[1])) if length else b""
                await asyncio.sleep(pause)
                if b'"stream": true' not in body and b'"stream":true' not in body:
                    writer.write(HEAD % b"application/json" + b"Content-Length: %d\r\n\r\n%s" % (len(whole), whole))
                    continue
                writer.write(HEAD % b"text/event-stream" + b"Transfer-Encoding: chunked\r\n\r\n")
                for event in [*events, b"data: [DONE]\n\n"]:
                    writer.write(b"%x\r\n%s\r\n" % (len(event), event))
                    await asyncio.sleep(pause)
                writer.write(b"0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


class Client:
    """A client with one connection that is kept."""

    def __init__(self, url: str) -> None:
        self._address = url.removeprefix("http://").partition("/")[0].split(":")

    async def __aenter__(self) -> "Client":
        self._reader, self._writer = await asyncio.open_connection(*self._address)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def ask(self, messages: list[dict], stream: bool) -> tuple[int, float, float]:
        """Return the status, and the seconds to the first byte of the answer's body and to its last."""
        body = json.dumps({"model": "m", "messages": messages, "stream": stream}).encode()
        start = time.perf_counter()
        self._writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        first = 0.0
        if length := re.search(rb"content-length: (\d+)", head, re.IGNORECASE):
            await self._reader.readexactly(int(length[1]))
        else:
            while size := int(await self._reader.readuntil(b"\r\n"), 16):
                first = first or time.perf_counter() - start
                await self._reader.readexactly(size + 2)
            await self._reader.readexactly(2)
        whole = time.perf_counter() - start
        return int(head.split()[1]), first or whole, whole


def conversation(turns: int) -> list[dict]:
    """Return a history of so many questions and answers, and a new question."""
    messages = []
    for turn in range(turns):
        messages.append({"role": "user", "content": f"Question {turn}: tell me about otters."})
        messages.append({"role": "assistant", "content": " ".join(WORDS)})
    question = f"And now in {random.randrange(10**6)} words, please; mail it to otter@example.com."
    return [*messages, {"role": "user", "content": question}]


async def added(direct: str, through: str, requests: int) -> None:
    """Print the medians of requests one after another, directly and through the gateway."""
    async with Client(direct) as plain, Client(through) as gateway:
        for turns, stream in ((0, False), (0, True), (10, False), (10, True)):
            times: dict[str, list[tuple[float, float]]] = {"direct": [], "gateway": []}
            for _ in range(requests):
                for name, client in (("direct", plain), ("gateway", gateway)):
                    _, first, whole = await client.ask(conversation(turns), stream)
                    times[name].append((first, whole))
            medians = {
                name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in times.items()
            }
            first, whole = (1000 * (medians["gateway"][at] - medians["direct"][at]) for at in (0, 1))
            kind = f"{'streamed' if stream else 'in one piece'}, {2 * turns + 1} messages"
            direct_whole = 1000 * medians["direct"][1]
            print(f"{kind:27} added to the first block {first:5.2f} ms, to the whole {whole:5.2f} ms", end="")
            print(f" (direct {direct_whole:.2f} ms)", flush=True)


async def crowd(url: str, clients: int, seconds: float, process: psutil.Process) -> bool:
    """Print statuses, answers a second and memory while all clients ask at once; return whether all were answered."""
    end, statuses, times, memory = time.perf_counter() + seconds, Counter[int](), list[float](), list[int]()

    async def one(number: int) -> None:
        async with Client(url) as client:
            while time.perf_counter() < end:
                status, _, whole = await client.ask(conversation(0), number % 2 == 0)
                statuses[status] += 1
                times.append(whole)

    async def watch() -> None:
        while time.perf_counter() < end:
            await asyncio.sleep(seconds / 10)
            memory.append(process.memory_info().rss // 2**20)

    before = process.cpu_times()
    await asyncio.gather(watch(), *map(one, range(clients)))
    after = process.cpu_times()
    busy = 1000 * (after.user + after.system - before.user - before.system) / max(statuses.total(), 1)
    rate, median = sum(statuses.values()) / seconds, statistics.median(times)
    print(f"{clients} clients at once for {seconds:g} s: statuses {dict(statuses)}, ", end="")
    print(f"{rate:.0f} answers/s, median {median:.2f} s")
    print(f"the gateway's own work: {busy:.1f} ms of a CPU an answer")  # whatever else the machine is doing
    print(f"memory of the gateway in MB, over that time: {memory}", flush=True)
    return set(statuses) == {200}


@contextmanager
def processes(store_url: str, pause: float) -> Iterator[tuple[str, str, psutil.Process]]:
    """Run a server and a gateway; yield their addresses and the gateway's process."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "STORE_URL": store_url, "GATEWAY_PORT": "0"}
    command = [sys.executable, __file__, "--serve", str(pause)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout
    direct = server.stdout.readline().strip()
    command = [sys.executable, "-m", "jobs.gateway", "--upstream", direct]
    gateway = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert gateway.stdout
        found = next(match for line in gateway.stdout if (match := re.search(r"gateway: (http\S+) in front", line)))
        gateway.stdout.readline()
        yield direct, found[1], psutil.Process(gateway.pid)
    finally:
        gateway.terminate()
        gateway.wait()
        server.kill()


def main() -> None:
    """Print the two measurements. Raises SystemExit if an answer of the second was an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--clients", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--store-url", help="the store to write to, a new SQLite file by default")
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        return asyncio.run(serve(arguments.serve))
    with tempfile.TemporaryDirectory() as folder:
        url = arguments.store_url or f"sqlite:///{folder}/store.sqlite"
        with processes(url, 0.01) as (direct, through, process):
            asyncio.run(added(direct, through, arguments.requests))
            if not asyncio.run(crowd(through, arguments.clients, arguments.seconds, process)):
                sys.exit(1)
    return None


if __name__ == "__main__":
    main()
