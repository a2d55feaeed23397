"""What a run will cost: memory and arithmetic."""
