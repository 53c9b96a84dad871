"""Benchmarks: what the product is judged by. Nothing here is imported by it."""
