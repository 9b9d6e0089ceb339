"""The concurrent client against a sequential loop, on a local server that takes 0.2 s per request.

    python benchmarks/clients.py [--seconds 0.2] [--repeats 5]

A step is 32 follow-ups of a simulated user, or 32 pairs judged in both orders, in either protocol. The sequential loop
sends one request after another with the same SDK. The server runs in a process of its own and counts the largest
number of requests in flight.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdpo.llm import Backend, Request

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

CALLS = 32
PROMPT, ANSWER = "Tell me about otters. " * 20, "Otters are animals that live near water. " * 20


def serve(seconds: float) -> None:
    """Serve with a delay of `seconds` per request until standard input is closed.

    Prints the server's address, then, for each line of input, the largest number of requests in flight since the last.
    """
    from tests.servers import Answer, FakeServer

    with FakeServer(lambda body, number: Answer("Verdict: A", delay=seconds)) as server:
        print(server.root, flush=True)
        for _ in sys.stdin:
            print(server.most, flush=True)
            server.most = 0


@contextmanager
def serving(seconds: float) -> Iterator[tuple[subprocess.Popen, str]]:
    """Yield the process of a server, which ends with the block, and its address."""
    command = [sys.executable, __file__, "--serve", "--seconds", str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        yield server, server.stdout.readline().strip()
        server.stdin.close()


def backend(protocol: str, root: str) -> "Backend":
    """Return a new backend; its SDK is imported here."""
    from sdpo.llm import ClaudeBackend, OpenAIBackend

    if protocol == "openai":
        return OpenAIBackend(f"{root}/v1", "m")
    os.environ["ANTHROPIC_BASE_URL"] = root
    return ClaudeBackend("claude-m", "none")


def requests(part: str) -> "list[Request]":
    """Return the requests of one step: of part user or judge."""
    from sdpo.llm import Request
    from sdpo.text.prompts import PERSONAS, VERDICT_SCHEMA, judge_messages, user_messages

    persona = PERSONAS["no_emojis"]
    if part == "user":
        return [Request(user_messages(persona, PROMPT, f"{n} {ANSWER}"), 0.7, 128) for n in range(CALLS)]
    pairs = [(f"{n} {ANSWER}", ANSWER)[::order] for n in range(CALLS) for order in (1, -1)]
    return [Request(judge_messages(persona, PROMPT, *pair), 0.0, 64, schema=VERDICT_SCHEMA) for pair in pairs]


def concurrent(batch: "list[Request]", server: "Backend") -> None:
    """Send all requests through a new client, whose reply cache is empty."""
    from sdpo.llm import Client, Reply

    replies = Client(server).complete(batch)
    assert all(isinstance(reply, Reply) for reply in replies)


def sequential(batch: "list[Request]", server: "Backend") -> None:
    """Send one request after another."""
    for request in batch:
        server.ask(request, 60)


def measure(variant: Callable, part: str, protocol: str, root: str, repeats: int) -> float:
    """Return the median seconds of a step."""
    batch, server, times = requests(part), backend(protocol, root), []
    variant(batch[:1], server)  # warm-up: imports and the first connection
    for _ in range(repeats):
        started = time.perf_counter()
        variant(batch, server)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def largest_concurrency(server: subprocess.Popen) -> int:
    """Return the largest number of requests in flight since the last call."""
    server.stdin.write("\n")
    server.stdin.flush()
    return int(server.stdout.readline())


def main() -> None:
    """Measure both variants of both parts in both protocols and print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.seconds)
        return
    with serving(arguments.seconds) as (server, root):
        for protocol in ("openai", "claude"):
            for part in ("user", "judge"):
                before = measure(sequential, part, protocol, root, 1)
                largest_concurrency(server)
                after = measure(concurrent, part, protocol, root, arguments.repeats)
                in_flight = largest_concurrency(server)
                print(
                    f"{protocol:6} {part:5} {len(requests(part))} requests   sequential {before:6.2f} s   "
                    f"concurrent {after:5.2f} s   {before / after:5.1f} x   {in_flight} in flight",
                    flush=True,
                )


if __name__ == "__main__":
    main()
