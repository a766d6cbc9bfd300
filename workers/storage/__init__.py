"""Object stores behind one protocol; `store_for` finds the one that a row names."""

from workers.settings import Settings
from workers.storage.base import ObjectMissing, ObjectStore, ObjectTooLarge, StoreError, UnknownProvider
from workers.storage.local import LocalStore

__all__ = ["ObjectMissing", "ObjectStore", "ObjectTooLarge", "StoreError", "UnknownProvider", "store_for"]


def store_for(provider: str, settings: Settings) -> ObjectStore:
    """Return the store that a row's `storage_provider` names.

    Raises:
        UnknownProvider: no such store is set up.
    """
    if provider == "local":
        return LocalStore(settings.storage_root, settings.quarantine_root, settings.storage_url)
    raise UnknownProvider(f"storage provider {provider!r} is not set up; it must be 'local'")
