"""The commands of `lmt2`, by theme: run, produce, talk, look, control, upkeep.

A command imports what is heavy only when it runs, so that `lmt2 --help` and `lmt2 status` answer at once.
"""
