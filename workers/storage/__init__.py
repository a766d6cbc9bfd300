"""Object stores behind one protocol; `store_for` finds the one that a row names."""

from workers.settings import Settings, variable
from workers.storage.base import (
    BucketMissing,
    Fetched,
    ObjectChanged,
    ObjectMissing,
    ObjectStore,
    ObjectTooLarge,
    ObjectUrl,
    StoreError,
    UnknownProvider,
)
from workers.storage.local import LocalStore

__all__ = [
    "BucketMissing",
    "Fetched",
    "ObjectChanged",
    "ObjectMissing",
    "ObjectStore",
    "ObjectTooLarge",
    "ObjectUrl",
    "StoreError",
    "UnknownProvider",
    "store_for",
]


def store_for(provider: str, settings: Settings) -> ObjectStore:
    """Return the store that a row's `storage_provider` names.

    Raises:
        UnknownProvider: no such store is set up.
    """
    if provider == "local":
        return LocalStore(settings.storage_root, settings.quarantine_root, settings.storage_url)
    if provider == "s3":
        if not settings.s3_bucket:
            raise UnknownProvider(f"storage provider 's3' is not set up; set {variable('s3_bucket')}")
        # Third of a second and 20 MB that those who keep everything on disk need not spend.
        from workers.storage import s3

        return s3.store_for(settings)
    raise UnknownProvider(f"storage provider {provider!r} is not set up; it must be 'local' or 's3'")
