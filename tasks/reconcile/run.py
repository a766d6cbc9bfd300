"""One comparison of the stores and the rows, from the listing to what is mended."""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from uuid import uuid4

from sqlalchemy.exc import SQLAlchemyError

from tasks.apps import enabled
from tasks.attachments.tables import askable
from tasks.reconcile import listing, missing_objects, orphans
from tasks.reconcile.result import Result, reason_to_stop
from workers import job_history
from workers.db import clock, transaction
from workers.settings import Settings
from workers.storage import ObjectStore, store_for

#: Its name in the job history.
JOB = orphans.POLICY
#: How long a run may take.
LONGEST = timedelta(days=1)


def reconcile(
    settings: Settings,
    *,
    app: str | None = None,
    store: str | None = None,
    apply: bool = False,
    actor: str = "",
    reason: str = "",
    now: datetime | None = None,
    watch: Callable[[str], None] = lambda _message: None,
) -> list[Result] | None:
    """Compare; return what was found in each store, None where another run is under way.

    Nothing is changed unless `apply`, and nothing anywhere if too much would be in one of the stores.

    Args:
        app: only this application's pictures and rows; it must be enabled.
        store: only this one; all that are set up if None.
        actor, reason: who wants it and why, for receipts and stories.
        now: the moment that ages are reckoned from; the database's clock if None.
        watch: is told how far it is, in a few words.

    Raises:
        CannotAskError, WrongPrefixError, ListingLostError.
        UnknownProvider: the store is not set up.
        StoreError: a store is away; what was mended before is.
    """
    wanted = [store] if store else ["local", *(["s3"] if settings.s3_bucket else [])]
    stores = {name: store_for(name, settings) for name in wanted}
    with job_history.run(JOB, longest=LONGEST) as entry:
        if entry is None:
            return None
        run = _Comparison(settings, stores, app, now or entry.started_at, watch)
        try:
            run.compare()
            if apply and not run.stopped():
                run.mend(actor, reason)
        except BaseException:
            # The next run empties it, too; the database may be what has failed.
            with suppress(SQLAlchemyError):
                listing.empty()
            raise
        finally:
            entry.rows = sum(found.deleted + found.reopened for found in run.found)
        listing.empty()
        entry.remaining = max(0, sum(found.orphans + found.missing for found in run.found) - entry.rows)
        if stopped := run.stopped():
            entry.outcome, entry.error = "stopped", "; ".join(stopped)
        else:
            entry.error = next((found.error for found in run.found if found.error), None)
    return run.found


class _Comparison:
    """One comparison, and what it has found and done so far."""

    def __init__(
        self,
        settings: Settings,
        stores: dict[str, ObjectStore],
        app: str | None,
        now: datetime,
        watch: Callable[[str], None],
    ) -> None:
        self.found = [Result(name) for name in stores]
        self._settings, self._stores, self._watch = settings, stores, watch
        with transaction() as connection:
            asked = askable(connection, settings)
        before = now - timedelta(hours=settings.reconcile_grace_hours)
        self._cut = orphans.Cut(asked, before, app)
        # What is not enabled names objects, but is not processed.
        on = {
            name: table for name, table in asked.items() if name in enabled(settings) and app in {None, name}
        }
        self._on = on
        self._looks: dict[str, missing_objects.Look] = {}

    def compare(self) -> None:
        """List everything, and judge it."""
        share = self._settings.reconcile_share
        prefixes = self._settings.reconcile_prefixes
        listing.empty()
        for found in self.found:
            store = self._stores[found.store]
            self._looks[found.store] = look = missing_objects.Look(self._on, clock(), prefixes)
            listing.fill(found.store, store, prefixes, self._watch)
            self._watch(f"{found.store}: comparing")
            orphans.count(found, self._cut)
            missing_objects.count(found, look, store, share, self._watch)
            found.stopped = reason_to_stop(found, expected=look.expected(found.store), share=share)

    def mend(self, actor: str, reason: str) -> None:
        """Remove the orphans, and reopen the rows whose object is gone."""
        share = self._settings.reconcile_share
        receipt = orphans.Receipt(uuid4(), actor, reason, self._cut.before)
        for found in self.found:
            store = self._stores[found.store]
            orphans.delete(found, self._cut, store, share, receipt, self._watch)
            if not found.stopped:
                missing_objects.reopen(
                    found, self._looks[found.store], store, share, actor, reason, self._watch
                )
            if found.stopped:
                return

    def stopped(self) -> list[str]:
        """Return why nothing more is changed, for each store of which too much would be."""
        return [found.stopped for found in self.found if found.stopped]
