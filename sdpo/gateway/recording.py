"""Finds a request's place in the store and makes the exchange of it, beside waiting for the upstream's answer."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdpo.data.redact import Redactor
from sdpo.gateway.exchanges import Exchange, Request, read_request
from sdpo.gateway.identity import Identity
from sdpo.gateway.stitching import Place, Stitcher, opt_out_mark

# Parameters of a request that say how its answer was sampled.
_PARAMETERS = (
    "temperature", "top_p", "top_k", "min_p", "max_tokens", "max_completion_tokens", "seed", "stop", "n",
    "presence_penalty", "frequency_penalty", "repetition_penalty", "reasoning_effort", "stream",
)  # fmt: skip


@dataclass(frozen=True)
class Turn:
    """A request with its sender and its place. `kept` is whether the exchange goes into the store; `why_not` if not."""

    identity: Identity
    request: Request
    place: Place
    why_not: str = ""

    @property
    def kept(self) -> bool:
        """Whether the exchange goes into the store."""
        return not self.why_not

    def opt_out_rows(self) -> dict[str, list[dict[str, Any]]]:
        """Return the rows that keep what goes on from here out of the store too, none if nobody opted out here."""
        if not self.identity.opted_out:
            return {}
        marks = [opt_out_mark(self.identity.key, self.identity.user, self.request.asked)]
        marks += [self.place.conversation] if self.identity.conversation else []
        return {"opt_outs": [{"mark": mark, "opted_out_at": time.time()} for mark in marks]}

    def exchange(self, body: Mapping[str, Any], model: str, version: str, request_id: str, gateway: str) -> Exchange:
        """Return the exchange of a request that was sent to a model of the upstream."""
        return Exchange(
            conversation=self.place.conversation,
            key=self.identity.key,
            user=self.identity.user,
            request=self.request,
            parent=self.place.parent,
            new=self.request.messages[self.place.begin :],
            same_system=self.place.same_system,
            gateway=gateway,
            request_id=request_id,
            message_id=self.identity.message,
            model=model,
            version=version,
            parameters={name: body[name] for name in _PARAMETERS if body.get(name) is not None},
        )


def read_turn(messages: list[Any], identity: Identity, opted_out: bool, redactor: Redactor, stitcher: Stitcher) -> Turn:
    """Return the turn that a request is; `opted_out` is whether its user is on the list of those who opted out."""
    request = read_request(messages, redactor)
    place = stitcher.find(request, identity.key, identity.user, identity.conversation)
    why_not = "task" if identity.task else "" if request.messages else "no messages"
    if opted_out or identity.opted_out or place.opted_out:
        why_not = "opt-out"
    return Turn(identity, request, place, why_not)
