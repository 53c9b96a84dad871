"""LMT²: a streaming, event-driven continual learner of documents."""

import os

__version__ = "0.1.0"

# Before torch is imported: waiting OpenMP threads sleep instead of spinning. On cores that a broker, a database
# or a second stage share, spinning made a training step up to twenty times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
