"""Makes the outcome of one attempt true: objects first, then the rows, so that a crash can be made good."""

import structlog

from tasks.attachments import attachment_work, duplicates, objects, verdicts
from tasks.attachments.app_columns import AppView
from tasks.attachments.examine import AttemptContext, Findings
from tasks.attachments.objects import ObjectUrls, delete_pictures, picture_key, quarantine_name
from workers.db import release_snapshot, transaction
from workers.storage import ObjectChanged, ObjectMissing, ObjectStore, StoreError

log = structlog.get_logger(__name__)


def commit_outcome(context: AttemptContext, found: Findings) -> str:
    """Store, publish, withdraw or quarantine; write the rows. Return the outcome in a word or two.

    Raises:
        attachment_work.LeaseLostError, StoreError.
        ObjectChanged: the object is another by now than the one that was judged.
    """
    claim, store = context.claim, context.store
    served = found.outcome == "accepted"
    quarantined = found.outcome == "quarantined"
    urls, copied = None, False
    if served:
        # A worker that lost the file must not publish it: an operator may have withdrawn it meanwhile.
        context.lease.confirm("store")
        with context.phase("store"):
            urls = _store(context, found)
    context.event_log.add("finished", outcome=found.outcome, verdict=found.verdict, reason=found.reason)
    try:
        with transaction() as connection:
            # While our row is locked, so that no other attempt is at the objects; before the commit, so that
            # a row tells the truth: if the store is away now, the file waits and all this is done again. The
            # next attempt ends what a crash cuts. The application's row is not locked yet: a store may take
            # long.
            attachment_work.hold(connection, claim)
            if not served:
                _need_unchanged(context, found)
            if quarantined:
                copied = _quarantine(context)
            if not served:
                delete_pictures(store, claim.app, claim.id)
            there = attachment_work.finish(
                connection, claim, _values(context, found, urls), _seen(context, found, urls)
            )
            if there:
                context.event_log.write(connection)
            if found.fresh_verdict is not None and found.fetched and found.version:
                verdicts.keep(connection, found.fetched.sha256, found.version, found.fresh_verdict)
    except ObjectChanged:
        _withdraw_copies(found)
        raise
    if served and not there:
        _delete_leftovers(context)
    if copied and not there:
        # The user has deleted row and object.
        store.discard([quarantine_name(claim.app, claim.id)])
    _withdraw_copies(found)
    if not there:
        return "vanished"
    return found.outcome if not found.reason else f"{found.outcome} ({found.reason})"


def _withdraw_copies(found: Findings) -> None:
    """Withdraw copies of malware that were served before anybody knew.

    A crash here is made good by the next rescan, if the signatures have a version to remember the verdict by.
    """
    if found.verdict == "infected" and found.fetched:
        duplicates.withdraw(found.fetched.sha256, f"infected with {found.signature}")


def _need_unchanged(context: AttemptContext, found: Findings) -> None:
    """Let pass if there is no other object than the one that was judged.

    A service that has completed an upload meanwhile has enqueued the file again, and that message found it
    being worked on. One that comes from now on waits for this transaction, and finds the file refused.

    Raises:
        ObjectChanged, StoreError.
    """
    claim = context.claim
    if found.judged_object is None or claim.override == "quarantine":
        return
    there = context.store.fingerprint(claim.key)
    if there is None or there == found.judged_object:
        # Malware that another row names, too, may be in quarantine by now.
        return
    raise ObjectChanged("the object was written while it was judged")


def _quarantine(context: AttemptContext) -> bool:
    """Move the object into quarantine, even what came from there: an attempt that an operator has overtaken
    may have put it back. Return whether the attempt's own copy was put there instead."""
    claim, name = context.claim, quarantine_name(context.claim.app, context.claim.id)
    try:
        context.store.quarantine(claim.key, name)
    except ObjectMissing:
        # Another row that names the object has had it moved, before or meanwhile. Each has a copy of its own
        # there: one may be released or deleted without the other.
        context.store.put_quarantined(name, context.content)
        return True
    return False


def _delete_leftovers(context: AttemptContext) -> None:
    """Delete pictures whose row was deleted meanwhile: nothing links to them, and no attempt follows."""
    claim = context.claim
    try:
        delete_pictures(context.store, claim.app, claim.id)
    except (StoreError, OSError) as error:
        log.warning("attachment.pictures_left", app=claim.app, id=str(claim.id), error=str(error))


def clear_away(claim: attachment_work.Claim, store: ObjectStore) -> None:
    """Take back what an attempt may have stored after it had lost the file to another.

    Raises:
        StoreError.
    """
    with transaction() as connection:
        state, outcome = attachment_work.end(connection, claim)
        release_snapshot(connection)
        # The attempt that works on it now, or will, commits after this, and does it all again.
        if state in ("waiting", "running") or outcome == "accepted":
            return
        delete_pictures(store, claim.app, claim.id)
        if outcome == "quarantined":
            store.quarantine(claim.key, quarantine_name(claim.app, claim.id))


def _store(context: AttemptContext, found: Findings) -> ObjectUrls:
    """Store the pictures, publish the original; return the URLs of all."""
    claim, store = context.claim, context.store
    media_type = objects.served_type(found.corrected or claim.media_type, found.traits)
    assert found.fetched is not None
    version = found.fetched.version
    if found.in_quarantine:
        # Wrongly there: an operator released it, or newer signatures know better.
        name = quarantine_name(claim.app, claim.id)
        store.restore(name, claim.key)
        again = store.fetch(claim.key, context.folder / "restored", limit=context.settings.max_file_bytes)
        if again.sha256 != found.fetched.sha256:
            raise ObjectChanged("what came back from quarantine is not what was scanned")
        version = again.version
    elif found.shared:
        # Newer signatures know better. The other row keeps what it has, until it is looked at again.
        version = store.put(claim.key, context.content, media_type, claim.name)
    keys = _picture_keys(context, found)
    for name, picture in found.pictures.items():
        store.put(keys[name], picture, objects.PICTURE_TYPE)
    if claim.attempt > 1:
        # An earlier attempt may have drawn what this one does not.
        delete_pictures(store, claim.app, claim.id, but=keys)
    if found.stripped is not None:
        with transaction() as connection:
            attachment_work.rewrite(connection, claim, found.stripped.sha256)
        version = store.put(claim.key, found.stripped.path, media_type, claim.name)
    # Also says no if the bytes are others by now than those that were scanned.
    store.publish(claim.key, version, media_type, claim.name)
    return objects.object_urls(store, claim.key, media_type, claim.name, keys)


def _picture_keys(context: AttemptContext, found: Findings) -> dict[str, str]:
    return {name: picture_key(context.claim.app, context.claim.id, name) for name in found.pictures}


def _values(context: AttemptContext, found: Findings, urls: ObjectUrls | None) -> dict[str, object]:
    """Return what our own row is to say."""
    claim, fetched, version = context.claim, found.fetched, found.version
    stored = found.stripped or fetched
    keys = _picture_keys(context, found) if urls else {}
    held = found.outcome == "quarantined" or (found.in_quarantine and found.outcome != "accepted")
    return {
        "outcome": found.outcome,
        "verdict": found.verdict,
        "reason": found.reason,
        "detail": found.detail,
        "sha256": stored.sha256 if stored else None,
        "size_bytes": stored.size if stored else None,
        "media_type": found.media_type,
        "judged_object": found.judged_object,
        "findings": list(found.traits),
        "risk": found.risk,
        "signature": found.signature,
        "engine_version": version.engine if version else None,
        "signature_version": version.signatures if version else None,
        "small_key": keys.get("small"),
        "large_key": keys.get("large"),
        "quarantine_key": quarantine_name(claim.app, claim.id) if held else None,
        "url_expires_at": urls.expires_at if urls else None,
        "timings": context.event_log.timings(),
    }


def _seen(context: AttemptContext, found: Findings, urls: ObjectUrls | None) -> AppView:
    """Return what the application is to see."""
    claim, fetched, version = context.claim, found.fetched, found.version
    stored = found.stripped or fetched
    # Or it was rewritten by an attempt that died before it could tell the row.
    rewritten = found.stripped or (fetched if fetched and fetched.sha256 == claim.rewritten_sha256 else None)
    pictures = urls.pictures if urls else {}
    return AppView(
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
        url=urls.original if urls else None,
        small_url=pictures.get("small"),
        large_url=pictures.get("large"),
        small_key=picture_key(claim.app, claim.id, "small") if "small" in pictures else None,
    )
