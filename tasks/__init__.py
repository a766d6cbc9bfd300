"""What the platform does: one package or module per job family, one page per application."""
