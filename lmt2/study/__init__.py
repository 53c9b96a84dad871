"""The study skills of a small model: to read a passage, to list what is worth asking, and to write questions.

The skills live in LoRA adapters that are trained once on `data/lessons.jsonl` and shipped. They are for
studying only: with no passage in front of it an adapted model forgets what the base knows, so it never serves.
"""
