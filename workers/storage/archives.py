"""Where retention keeps what it deletes: a directory or a bucket of its own, that nothing serves."""

from workers.settings import Settings, SettingsError, variable
from workers.storage.base import ObjectStore
from workers.storage.local import LocalStore

#: Nothing is ever moved there: archives are not scanned. No policy is called like that.
_QUARANTINE = ".quarantine"


def archive_for(settings: Settings) -> ObjectStore | None:
    """Return the store of the archives, None if none is set up. No URLs are to be made of its objects.

    Raises:
        SettingsError: its directory cannot be made, or lies in the store, whose files are served.
    """
    root = settings.archive_root
    if root is not None:
        if root.resolve().is_relative_to(settings.storage_root.resolve()):
            raise SettingsError(
                f"{variable('archive_root')} {root} lies in {variable('storage_root')} "
                f"{settings.storage_root}, whose files are served; name a place outside of it."
            )
        try:
            # Only its owner's: the objects in it are everybody's to read, as in any store.
            root.parent.mkdir(parents=True, exist_ok=True)
            root.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise SettingsError(
                f"{variable('archive_root')}: {root} cannot be made: {error.strerror}."
            ) from error
        return LocalStore(root, root / _QUARANTINE, "", lasting=True)
    if settings.archive_bucket is not None:
        # Third of a second and 20 MB that those who keep everything on disk need not spend.
        from workers.storage.s3 import Place, S3Store
        from workers.storage.s3_client import client_for

        place = Place(settings.archive_bucket, f"{_QUARANTINE}/")
        return S3Store(client_for(settings), settings.archive_bucket, place)
    return None
