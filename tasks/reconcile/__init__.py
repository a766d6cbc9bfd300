"""Compares what the stores hold with what the rows name, both ways, and mends it if that is asked for.

Objects that no row names are removed; rows whose object is gone are given back to the pipeline, which
withdraws their addresses. All is listed and judged before anything is changed, and if too much would be,
nothing is.
"""

from tasks.attachments.tables import CannotAskError
from tasks.reconcile.listing import ListingLostError, WrongPrefixError
from tasks.reconcile.result import Result
from tasks.reconcile.run import JOB, reconcile

__all__ = ["JOB", "CannotAskError", "ListingLostError", "Result", "WrongPrefixError", "reconcile"]
