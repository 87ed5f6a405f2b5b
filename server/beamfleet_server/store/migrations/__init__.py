"""The migrations of the database, applied at each start; package data, in order of `versions/`."""
