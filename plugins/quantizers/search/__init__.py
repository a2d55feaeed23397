"""What a search is given: grids, weights and how hard to work."""
