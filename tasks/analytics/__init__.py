"""Analytics: rollups computed from source tables, their calendar, and the tasks that run them."""
