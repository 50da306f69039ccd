"""The keys of a `[[models]]` table whose engines already run, and of one replica of it."""

from __future__ import annotations

from pydantic import Field

from nebula_core import EngineArgs


class Common(EngineArgs):
    """What holds for all engines of a model."""

    api_key: str = ""
    """Key that the engines ask for. It is kept in the store as it stands; `api_key_env` is not."""
    api_key_env: str = ""
    """Environment variable of the node that holds the key."""
    served_name: str = ""
    """Name that the engines know the model by; empty: its `model_uid`."""
    scraper: str | None = Field(None, min_length=1)
    """Name of the scraper that reads the engines' metrics; `None`: they are not read."""
    health_path: str = Field("/health", pattern="^/")
    """Page that answers 200 when an engine can serve; one that it does not have does no harm."""


class ExternalArgs(Common):
    """A model's own keys."""

    urls: tuple[str, ...] = Field(min_length=1)
    """Base URLs of the engines, with or without `/v1`."""


class ReplicaArgs(Common):
    """The same for one replica."""

    url: str
