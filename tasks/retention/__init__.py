"""Retention: expired rows are archived, then deleted, with receipts, holds, approvals and restore."""
