"""The OpenAI requests that the serving address takes.

Unknown fields are let pass, as clients send many that change nothing. Known ones that would change the answer
and aren't implemented are refused with their name: an ignored `logprobs` would be a lie.
"""

import random
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lmt2.models.base import Conversation, Message, Sampling
from serving.backend import BASE, Ask

ROUTED = "lmt2"
MODELS = (ROUTED, BASE)

WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {  # not implemented: these values alone are taken
    "n": (None, 1),
    "best_of": (None, 1),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "echo": (None, False),
    "suffix": (None, ""),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "tools": (None, []),
    "functions": (None, []),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": (None,),
}


class StreamOptions(BaseModel):
    """What a stream carries besides its text."""

    include_usage: bool = False


class AnswerRequest(BaseModel):
    """What both kinds of request share."""

    model_config = ConfigDict(extra="allow")

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    stop: str | list[str] | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)

    @model_validator(mode="after")
    def _refuse_unimplemented(self) -> "AnswerRequest":
        for name, value in (self.model_extra or {}).items():
            if name in WITHOUT_EFFECT and not any(_is_same(value, one) for one in WITHOUT_EFFECT[name]):
                raise ValueError(f"{name} is not supported here: leave it out")
        return self

    @field_validator("stop")
    @classmethod
    def _check_stop(cls, stop: str | list[str] | None) -> str | list[str] | None:
        if stop is not None and not all([stop] if isinstance(stop, str) else stop):
            raise ValueError("a stop string is empty")
        return stop

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a count of its tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    def ask(self, prompt: str | Conversation, max_new_tokens: int) -> Ask:
        """The engine's form of a prompt."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        temperature = 1.0 if self.temperature is None else self.temperature
        sampling = Sampling(
            max_new_tokens=max_new_tokens,
            temperature=round(temperature, 4),  # logits are divided by it: nearly 0 is 0
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=random.getrandbits(31) if self.seed is None else self.seed,
        )
        return Ask(prompt, sampling, tuple(stops), self.model == ROUTED)


class CompletionRequest(AnswerRequest):
    """Raw text to go on with; several prompts have several answers."""

    prompt: str | Annotated[list[str], Field(min_length=1)]

    def asks(self, most_tokens: int) -> list[Ask]:
        """One ask a prompt, each for OpenAI's default of sixteen new tokens, or for what is wanted up to the most."""
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        return [self.ask(prompt, min(self.max_tokens or 16, most_tokens)) for prompt in prompts]


class ContentPart(BaseModel):
    """A part of a message: text only."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One turn. `developer` is the newer name of `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[ContentPart]

    @property
    def message(self) -> Message:
        """The turn as models take it."""
        role = "system" if self.role == "developer" else self.role
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(role=role, content=text)


class ChatRequest(AnswerRequest):
    """A conversation to answer."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)

    def asks(self, most_tokens: int) -> list[Ask]:
        """The conversation as one ask, for what is wanted up to the most tokens."""
        wanted = self.max_completion_tokens or self.max_tokens or most_tokens
        return [self.ask([turn.message for turn in self.messages], min(wanted, most_tokens))]


def _is_same(value: Any, other: Any) -> bool:
    """Equality that tells 0 from False: `logprobs: 0` asks for something."""
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)
