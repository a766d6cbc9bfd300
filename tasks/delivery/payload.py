"""What `delivery.recount` is given."""

from uuid import UUID

from pydantic import BaseModel, ConfigDict, field_validator

from tasks.apps import APPS
from tasks.policies.status import ReadPointers

#: The applications that keep counters of their conversations.
WITH_COUNTERS = tuple(app.name for app in APPS.values() if isinstance(app.delivery, ReadPointers))


class RecountConversation(BaseModel):
    """One conversation of an application that keeps counters."""

    # Values stay out of error messages: those reach logs and Flower.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    app: str
    conversation_id: UUID

    @field_validator("app")
    @classmethod
    def _has_counters(cls, value: str) -> str:
        if value not in WITH_COUNTERS:
            raise ValueError(f"must be an application with counters: {', '.join(WITH_COUNTERS)}")
        return value
