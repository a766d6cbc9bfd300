"""`roomkeeper retention`: what a run would take, its approval, what was taken, and how it is put back."""

import typer

from commands.retention.approvals import approve, list_approvals
from commands.retention.pending import list_pending
from commands.retention.preview import preview
from commands.retention.receipts import list_receipts, show_receipt
from commands.retention.restore import restore
from commands.retention.verify import verify

app = typer.Typer(
    help="What retention would take, what it took, and how that comes back.", no_args_is_help=True
)
app.command("preview")(preview)
app.command("approve")(approve)
app.command("approvals")(list_approvals)
app.command("receipts")(list_receipts)
app.command("receipt")(show_receipt)
app.command("pending")(list_pending)
app.command("verify")(verify)
app.command("restore")(restore)
