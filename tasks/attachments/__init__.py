"""Attachments: identify → scan → strip → draw → store.

process.py           the task: one file, by application and id
recover.py           its recovery job: what was missed is announced again
pipeline.py          one attempt: examine.py examines the file, commit_outcome.py stores what came of it
attachment_work.py   the state table: claim, lease, wait, finish, reopen; every write fenced
history.py           each file's event log
app_columns.py       what the application's own API sees
identify.py          what content is (content/); policy.py which of it is accepted as what
scan.py              the scanner's answer as a verdict; verdicts.py remembers it by content
scanner_selftest.py  whether the scanner can be trusted
draw.py              pictures, drawn in the sandbox (drawing/)
strip.py             originals without personal metadata (stripping/), in the sandbox too
rescan.py            what is served is scanned again, popularity.py what first
duplicates.py        withdraws every copy of what is found
urls.py              signed URLs are renewed
operator_actions.py  what an operator may do
"""
