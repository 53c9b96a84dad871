"""Turns files, folders, standard input or calls into document events."""
