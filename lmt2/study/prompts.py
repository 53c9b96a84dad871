"""What a studying model is asked, in training and in use alike."""

from typing import Literal

from lmt2.models.base import Conversation, Message

QuestionKind = Literal["direct", "rephrased", "reversed"]
KINDS: tuple[QuestionKind, ...] = ("direct", "rephrased", "reversed")
NOT_STATED = "not stated"


def user(content: str) -> Message:
    """A turn of the one who asks."""
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    """A turn of the one who answers."""
    return {"role": "assistant", "content": content}


def read(passage: str, question: str) -> Conversation:
    """The reader's task; its answer is short, or `NOT_STATED`."""
    return [user(f"{passage}\n\n{question}")]


def list_answers(passage: str) -> Conversation:
    """The lister's task: the short answers that questions about the passage could have, one a line."""
    return [user(f"{passage}\n\nList the short answers that questions about this text could have, one a line.")]


def ask_for(answer: str, kind: QuestionKind) -> Message:
    """The writer's task, as a turn after the list: one question for a given answer."""
    return user(f"Write a question ({kind}) whose answer is: {answer}")
