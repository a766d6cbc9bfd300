"""Which tables exist: one module per application, and the platform's own. Nothing here runs jobs."""
