"""The record types that an application's definition is made of: sweeps, retention, rollups, statuses, files.

And the tables of media types and of traits, which rules for attachments name.
"""
