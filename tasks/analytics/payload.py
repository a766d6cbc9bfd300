"""What `analytics.room` is given."""

import re
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, field_validator

#: What people know a room by.
CODE = re.compile(r"[A-Z0-9]{6}")


class RecomputeRoom(BaseModel):
    """One room of `audiorooms`: its id, or its code, which is all that the documented server knows."""

    # Values stay out of error messages: those reach logs and Flower.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    app: Literal["audiorooms"]
    room: UUID | str

    @field_validator("room", mode="before")
    @classmethod
    def _id_or_code(cls, value: object) -> object:
        if isinstance(value, UUID):
            return value
        if isinstance(value, str):
            if CODE.fullmatch(value):
                return value
            try:
                return UUID(value)
            except ValueError:
                pass
        raise ValueError("must be a UUID, or a code of six capital letters and digits")
