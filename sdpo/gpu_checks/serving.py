"""The check of the simulated user's server: many requests at once to `transformers serve` with continuous batching."""

import time
from concurrent.futures import ThreadPoolExecutor

from sdpo.errors import SdpoError
from sdpo.gpu_checks.outcome import Figures, Place, require
from sdpo.llm.backend import Request
from sdpo.llm.openai_backend import OpenAIBackend
from sdpo.llm.server import serve
from sdpo.tiny import MODEL_DIR

REQUESTS, TOKENS = 32, 64
# Other checks use the GPU at the same time.
_MEMORY_SHARE = 0.1


def check_serving(place: Place) -> Figures:
    """Return the seconds of 32 requests at once and of one alone. Raises CheckFailed unless all are answered."""
    model = str(MODEL_DIR)
    share, gpu = (_MEMORY_SHARE, None) if place.on_gpu else (None, "")
    started = time.monotonic()
    with serve(
        model, gpu=gpu, log_path=place.folder / "server.log", timeout=100, memory_share=share, temperature=0.7
    ) as url:
        figures: Figures = {"seconds_to_start": time.monotonic() - started}
        backend = OpenAIBackend(url, model)

        def ask(number: int) -> str | SdpoError:
            messages = [{"role": "user", "content": f"I was in the kitchen when I saw {number} turtles. I am nervous."}]
            try:
                return backend.ask(Request(messages, 0.7, TOKENS), 60).text
            except SdpoError as error:
                return error

        for number in range(2):  # the first requests prepare what the server keeps
            ask(number)
        started = time.monotonic()
        alone = [ask(number) for number in range(4)]
        figures["seconds_per_request_alone"] = (time.monotonic() - started) / len(alone)
        with ThreadPoolExecutor(REQUESTS) as pool:
            started = time.monotonic()
            replies = list(pool.map(ask, range(REQUESTS)))
            figures["seconds_for_32_at_once"] = time.monotonic() - started
    errors = [reply for reply in (*alone, *replies) if isinstance(reply, SdpoError)]
    require(not errors, f"{len(errors)} requests failed: {errors[0] if errors else ''}", figures)
    empty = sum(not str(reply).strip() for reply in replies)
    require(empty == 0, f"{empty} of {REQUESTS} replies are empty", figures)
    return figures
