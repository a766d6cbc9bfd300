"""What `roomkeeper report` shows: which figures, read from the database, as a page or in the terminal."""
