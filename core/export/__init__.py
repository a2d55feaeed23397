"""Export: from a request to a plan, from a plan to a file that was read again."""
