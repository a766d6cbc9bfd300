"""Makes the outcome of one attempt true: objects first, then the rows, so that a crash can be made good."""

from tasks.attachments import copies, jobs, verdicts
from tasks.attachments.examine import Desk, Findings, quarantine_name
from tasks.attachments.mirror import Seen
from workers.db import transaction
from workers.storage import ObjectStore
from workers.storage.base import Address

PICTURE_TYPE = "image/webp"
#: The pictures that an attachment may have.
SIZES = ("small", "large")


def picture_key(app: str, attachment_id: object, size: str) -> str:
    """Return the key of an attachment's picture: it follows from the id, so that drawing again overwrites."""
    return f"derived/{app}/{attachment_id}/{size}.webp"


def delete_pictures(store: ObjectStore, app: str, attachment_id: object) -> None:
    """Remove the attachment's pictures, if there are any: of this attempt or of one that died."""
    for size in SIZES:
        store.delete(picture_key(app, attachment_id, size))


def conclude(desk: Desk, found: Findings) -> str:
    """Store, publish, withdraw or quarantine; write the rows. Return the outcome in a word or two.

    Raises:
        jobs.LeaseLostError, StoreError.
    """
    mine, store = desk.mine, desk.store
    served = found.outcome == "accepted"
    quarantined = found.outcome == "quarantined"
    addresses: dict[str, Address] = {}
    if served:
        # Whoever lost the file must not publish it: an operator may have withdrawn it meanwhile.
        desk.lease.confirm("store")
        with desk.phase("store"):
            addresses = _store(desk, found)
    else:
        # Before the row says so: if the store is away now, the file waits and this is done again.
        delete_pictures(store, mine.app, mine.id)
    desk.story.add("finished", outcome=found.outcome, verdict=found.verdict, reason=found.reason)
    with transaction() as connection:
        there = jobs.finish(connection, mine, _values(desk, found, addresses), _seen(desk, found, addresses))
        if there:
            desk.story.write(connection)
        if found.fresh_verdict is not None and found.fetched and found.version:
            verdicts.keep(connection, found.fetched.sha256, found.version, found.fresh_verdict)
        if quarantined and not found.in_quarantine:
            # While our row is locked, so that no other attempt looks for the object; before the commit, so
            # that a row that says "quarantined" tells the truth. The next attempt ends what a crash cuts.
            store.quarantine(mine.key, quarantine_name(mine.app, mine.id))
        if not there:
            delete_pictures(store, mine.app, mine.id)
    if found.verdict == "infected" and found.fetched:
        # Copies that were served before anybody knew. A crash here is made good by the next rescan.
        copies.withdraw(found.fetched.sha256, f"infected with {found.signature}")
    if not there:
        return "vanished"
    return found.outcome if not found.reason else f"{found.outcome} ({found.reason})"


def _store(desk: Desk, found: Findings) -> dict[str, Address]:
    """Store the pictures, publish the original; return the addresses of all, by name."""
    mine, store = desk.mine, desk.store
    media_type = found.corrected or mine.media_type
    assert found.fetched is not None
    version = found.fetched.version
    if found.in_quarantine:
        # Wrongly there: an operator released it, or newer signatures know better.
        name = quarantine_name(mine.app, mine.id)
        store.restore(name, mine.key)
        again = store.fetch(mine.key, desk.folder / "restored", limit=desk.settings.max_file_bytes)
        assert again.sha256 == found.fetched.sha256
        version = again.version
    addresses = {}
    for size, picture in found.pictures.items():
        key = picture_key(mine.app, mine.id, size)
        store.put(key, picture, PICTURE_TYPE)
        addresses[size] = store.url(key, PICTURE_TYPE, f"{size}.webp")
    if found.stripped is not None:
        with transaction() as connection:
            jobs.rewrite(connection, mine, found.stripped.sha256, found.stripped.size)
        version = store.put(mine.key, found.stripped.path, media_type, mine.name)
    # Also says no if the bytes are others by now than those that were scanned.
    store.publish(mine.key, version, media_type, mine.name)
    addresses["original"] = store.url(mine.key, media_type, mine.name)
    return addresses


def _values(desk: Desk, found: Findings, addresses: dict[str, Address]) -> dict[str, object]:
    """Return what our own row is to say."""
    mine, fetched, version = desk.mine, found.fetched, found.version
    expiries = [address.expires_at for address in addresses.values() if address.expires_at]
    stored = found.stripped or fetched
    keys = {size: picture_key(mine.app, mine.id, size) for size in addresses if size != "original"}
    held = found.outcome == "quarantined" or (found.in_quarantine and found.outcome != "accepted")
    return {
        "outcome": found.outcome,
        "verdict": found.verdict,
        "reason": found.reason,
        "detail": found.detail,
        "sha256": stored.sha256 if stored else None,
        "size_bytes": stored.size if stored else None,
        "media_type": found.media_type,
        "findings": list(found.traits),
        "risk": found.risk,
        "signature": found.signature,
        "engine_version": version.engine if version else None,
        "signature_version": version.signatures if version else None,
        "small_key": keys.get("small"),
        "large_key": keys.get("large"),
        "quarantine_key": quarantine_name(mine.app, mine.id) if held else None,
        "address_expires_at": min(expiries, default=None),
        "timings": desk.story.timings(),
    }


def _seen(desk: Desk, found: Findings, addresses: dict[str, Address]) -> Seen:
    """Return what the application is to see."""
    mine, fetched, version = desk.mine, found.fetched, found.version
    stored = found.stripped or fetched
    # Or it was rewritten by an attempt that died before it could tell the row.
    rewritten = found.stripped or (fetched if fetched and fetched.sha256 == mine.rewritten_sha256 else None)
    url = {name: address.url for name, address in addresses.items()}
    return Seen(
        served=found.outcome == "accepted",
        scanned=version is not None,
        verdict=found.verdict,
        error=f"{found.reason}: {found.detail}" if found.reason else None,
        details={
            "engine": f"ClamAV {version.engine}" if version else None,
            "signatures": version.signatures if version else None,
            "signature": found.signature,
            "sha256": stored.sha256 if stored else None,
            "type": found.media_type,
            "findings": list(found.traits),
        },
        metadata=found.metadata,
        media_type=found.corrected,
        rewritten=(rewritten.size, rewritten.sha256) if rewritten else None,
        url=url.get("original"),
        small_url=url.get("small"),
        large_url=url.get("large"),
        small_key=picture_key(mine.app, mine.id, "small") if "small" in url else None,
    )
