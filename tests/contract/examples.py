"""All examples: a sixth application's file is one more line here."""

from tests.contract import audiorooms, connect, echoroom, openchat, pern, platform
from tests.contract.example import Example

_PAGES: tuple[tuple[Example, ...], ...] = (
    audiorooms.EXAMPLES,
    connect.EXAMPLES,
    echoroom.EXAMPLES,
    openchat.EXAMPLES,
    pern.EXAMPLES,
    platform.EXAMPLES,
)

EXAMPLES: dict[str, Example] = {example.policy: example for page in _PAGES for example in page}


def example_of(name: str) -> Example:
    """Return a policy's example; fail if it has none."""
    app = name.partition(".")[0].replace("roomkeeper", "platform")
    assert name in EXAMPLES, f"{name} has no Example: write one in tests/contract/{app}.py"
    return EXAMPLES[name]
