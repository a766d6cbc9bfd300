"""What `attachments.process` is given."""

from uuid import UUID

from pydantic import BaseModel, ConfigDict, field_validator

from tasks.apps import APPS

#: The applications that have attachments.
WITH_ATTACHMENTS = tuple(app.name for app in APPS.values() if app.attachments)


class ProcessAttachment(BaseModel):
    """One attachment: the application's name and the row's id."""

    # Values stay out of error messages: those reach logs and Flower.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    app: str
    id: UUID

    @field_validator("app")
    @classmethod
    def _has_attachments(cls, value: str) -> str:
        if value not in WITH_ATTACHMENTS:
            raise ValueError(f"must be an application with attachments: {', '.join(WITH_ATTACHMENTS)}")
        return value
