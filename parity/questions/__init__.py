"""The questions: what a runtime is asked, and the ids that prompts must become."""
