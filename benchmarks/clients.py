"""Our client against a plain sequential loop, on a local server that takes 0.2 s for each request.

    python benchmarks/clients.py [--seconds 0.2] [--repeats 5]

32 reactions of a simulated user, and 32 pairs judged in both orders, in both protocols. The plain side asks one
after another with the same SDK. The server runs in a process of its own; the most it ever had at once is its count.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

CALLS = 32
PROMPT, ANSWER = "Tell me about otters. " * 20, "Otters are animals that live near water. " * 20


def serve(seconds: float) -> None:
    """Answer every request after so many seconds, until the standard input is closed."""
    from tests.servers import Answer, FakeServer

    with FakeServer(lambda body, number: Answer("Verdict: A", delay=seconds)) as server:
        print(server.root, flush=True)
        for _ in sys.stdin:
            print(server.most, flush=True)
            server.most = 0


def backend(protocol: str, root: str):
    """Return a new backend, its SDK imported."""
    from sdpo.llm import ClaudeBackend, OpenAIBackend

    if protocol == "openai":
        return OpenAIBackend(f"{root}/v1", "m")
    os.environ["ANTHROPIC_BASE_URL"] = root
    return ClaudeBackend("claude-m", "none")


def requests(part: str) -> list:
    """Return what a step of the part asks."""
    from sdpo.llm import Request
    from sdpo.text.prompts import PERSONAS, VERDICT_SCHEMA, judge_messages, user_messages

    persona = PERSONAS["no_emojis"]
    if part == "user":
        return [Request(user_messages(persona, PROMPT, f"{n} {ANSWER}"), 0.7, 128) for n in range(CALLS)]
    ways = [(f"{n} {ANSWER}", ANSWER)[::order] for n in range(CALLS) for order in (1, -1)]
    return [Request(judge_messages(persona, PROMPT, *way), 0.0, 64, schema=VERDICT_SCHEMA) for way in ways]


def ours(asked: list, server) -> None:
    """Ask all of it through a client that remembers nothing."""
    from sdpo.llm import Client, Reply

    replies = Client(server).complete(asked)
    assert all(isinstance(reply, Reply) for reply in replies)


def plain(asked: list, server) -> None:
    """Ask one after another."""
    for request in asked:
        server.ask(request, 60)


def measure(variant: Callable, part: str, protocol: str, root: str, repeats: int) -> float:
    """Return the median seconds of a step."""
    asked, server, times = requests(part), backend(protocol, root), []
    variant(asked[:1], server)  # imports and the like are paid once in a run
    for _ in range(repeats):
        started = time.perf_counter()
        variant(asked, server)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def largest_concurrency(server: subprocess.Popen) -> int:
    """Return the most requests the server had at once since the last time it was asked."""
    server.stdin.write("\n")
    server.stdin.flush()
    return int(server.stdout.readline())


def main() -> None:
    """Measure both sides of both parts in both protocols, and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.seconds)
        return
    command = [sys.executable, __file__, "--serve", "--seconds", str(arguments.seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        root = server.stdout.readline().strip()
        for protocol in ("openai", "claude"):
            for part in ("user", "judge"):
                before = measure(plain, part, protocol, root, 1)
                largest_concurrency(server)
                after = measure(ours, part, protocol, root, arguments.repeats)
                most = largest_concurrency(server)
                print(
                    f"{protocol:6} {part:5} {len(requests(part))} requests   plain {before:6.2f} s   "
                    f"ours {after:5.2f} s   {before / after:5.1f} times   {most} at once",
                    flush=True,
                )
        server.stdin.close()


if __name__ == "__main__":
    main()
