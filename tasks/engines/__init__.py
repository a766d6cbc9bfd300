"""Machinery that many jobs share."""
