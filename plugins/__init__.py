"""Everything a third party could have written, registered through the same hooks."""
