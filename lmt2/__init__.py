"""LMT²: a streaming, event-driven continual learner of documents."""

__version__ = "0.1.0"
