"""What `roomkeeper report` shows: which statistics, read from the database, as a page or in the terminal."""
