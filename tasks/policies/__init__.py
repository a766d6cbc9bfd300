"""The record types that an application's definition is made of: sweeps, retention, rollups, statuses."""
