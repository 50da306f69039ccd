"""`EngineArgs`: how an engine validates the keys of a model request that are its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from nebula_core.errors import InvalidModelRequest
from nebula_core.plugins import explain

if TYPE_CHECKING:
    from nebula_core.types import ModelRequest, ReplicaSpec


class EngineArgs(BaseModel):
    """Base of an engine's own keys: frozen, and a key it does not know is refused by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def of(cls, request: ModelRequest | ReplicaSpec) -> Self:
        """The validated `engine_args`. Raises `InvalidModelRequest` naming the model, the key and, if it is misspelt, the known ones."""
        try:
            return cls.model_validate(request.engine_args)
        except ValidationError as error:
            where = f'the model "{request.model_uid}" (engine "{request.engine}")'
            raise InvalidModelRequest(explain(error, where, cls.model_fields)) from error
