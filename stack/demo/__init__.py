"""Sample data: files, stale and expired rows, and a week of history, as the API services would write them."""
