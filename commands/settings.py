"""`roomkeeper settings`: the configuration table, as it stands in docs/settings.md."""

import typer
from pydantic_core import PydanticUndefined

from workers.settings import Settings, variable


def settings() -> None:
    """Print every setting, its default and its meaning, as a Markdown table."""
    typer.echo(markdown())


def markdown() -> str:
    """Return the configuration table."""
    lines = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        lines.append(f"| `{variable(name)}` | {_shown(field.default)} | {field.description} |")
    return "\n".join(lines)


def _shown(default: object) -> str:
    if default is PydanticUndefined:
        return "must be given"
    if default is None or default == {}:
        return "none"
    if isinstance(default, tuple):
        return f"`{','.join(default)}`"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if hasattr(default, "get_secret_value"):
        return f"`{default.get_secret_value()}`"
    return f"`{default}`"
