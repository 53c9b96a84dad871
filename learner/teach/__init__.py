"""Teach: what is learnt is explained, and explanations that help somebody weaker are kept."""
