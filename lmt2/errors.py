"""The errors of LMT², in one tree. Each is also a child of its standard-library kin, and says what to do next.

LMT2Error
├── ConfigError (ValueError)        a setting is wrong: nothing was started
├── EventError (ValueError)         a record can't be used: it goes to the dead letters
├── ModelError (RuntimeError)
│   └── ModelMissing (FileNotFoundError)
├── TrainingFailed (RuntimeError)   NaN or exploding loss: nothing was written
├── BudgetSpent (RuntimeError)      an update's methods may have models do no more: what they have is used
├── Overtaken (RuntimeError)        what work was built on changed meanwhile: the record is worked on again
├── ArtifactError (ValueError)      a weights file or manifest is not what it says it is
├── StorageError (OSError)          disk, database or object store refused
├── TransportError (ConnectionError) the event log or Kafka can't be reached
└── ServingError (RuntimeError)     a replica didn't do what it was told
"""


class LMT2Error(Exception):
    """Root of all errors raised on purpose."""


class ConfigError(LMT2Error, ValueError):
    """A configuration key or combination is wrong."""


class EventError(LMT2Error, ValueError):
    """A record can't be decoded or doesn't fit its schema."""


class ModelError(LMT2Error, RuntimeError):
    """A model couldn't be loaded or didn't answer."""


class ModelMissing(ModelError, FileNotFoundError):
    """A model's files aren't there."""


class TrainingFailed(LMT2Error, RuntimeError):
    """An update's loss became NaN or exploded."""


class BudgetSpent(LMT2Error, RuntimeError):
    """A bound on what the methods of an update may spend is reached."""


class Overtaken(LMT2Error, RuntimeError):
    """Somebody changed what a piece of work was built on before it was kept."""


class ArtifactError(LMT2Error, ValueError):
    """An artifact is damaged, of another base model, or outside its root."""


class StorageError(LMT2Error, OSError):
    """The ledger or the artifact store refused to keep something."""


class TransportError(LMT2Error, ConnectionError):
    """The event log can't be reached or refused a record."""


class ServingError(LMT2Error, RuntimeError):
    """A serving replica failed to load or to verify a version."""
