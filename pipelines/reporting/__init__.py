"""What a study found, as one page and one table."""
