"""Many processes: how they meet, and how they share one model."""
