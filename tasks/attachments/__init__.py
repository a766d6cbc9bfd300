"""Attachments: identify → scan → draw → store.

process.py    the task: one file, by application and id
recover.py    its periodic twin: what fell through is announced again
pipeline.py   what happens to one file, phase by phase
jobs.py       the state table: claim, lease, wait, finish; every write fenced
mirror.py     what the application's own API sees
policy.py     which content may call itself what; identify.py asks libmagic
scan.py       the scanner's answer as a verdict
draw.py       pictures, drawn by sandbox.py in a process that may crash
"""
