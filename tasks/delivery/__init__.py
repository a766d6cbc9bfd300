"""Message statuses: merged so that any order, any repetition and any batching end in the same rows."""
