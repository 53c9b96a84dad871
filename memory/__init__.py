"""What an update writes: small routed side memories, and the versions that are sets of them."""
