"""Attachments: identify → scan → strip → draw → store.

process.py     the task: one file, by application and id
recover.py     its recovery job: what fell through is announced again
pipeline.py    one attempt: examine.py finds out, conclude.py makes it true
jobs.py        the state table: claim, lease, wait, finish, reopen; every write fenced
history.py     each file's story
mirror.py      what the application's own API sees
identify.py    what content is (content/, traits.py); policy.py which of it is accepted as what
scan.py        the scanner's answer as a verdict; trust.py whether to believe it; verdicts.py by content
draw.py        pictures, drawn in the sandbox (drawing/)
strip.py       originals without personal metadata (stripping/), in the sandbox too
rescan.py      what is served is looked at again; copies.py withdraws what is found; popularity.py what first
addresses.py   signed addresses are renewed
operate.py     what an operator may do
"""
