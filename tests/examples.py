"""How many examples property tests try: few and always the same in `make test`, many and new ones by hand."""

from hypothesis import HealthCheck, settings

#: How many times as many `make test-deep` tries.
_DEEP = 20

settings.register_profile(
    "ci", derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.register_profile(
    "deep", print_blob=True, deadline=None, suppress_health_check=list(HealthCheck), derandomize=False
)


def examples(number: int) -> settings:
    """Return the settings of a property test: `number` examples, and in the profile `deep` 20 times as many.

    The profile is chosen with pytest's `--hypothesis-profile`.
    """
    deep = settings.get_current_profile_name() == "deep"
    return settings(max_examples=number * _DEEP if deep else number)
