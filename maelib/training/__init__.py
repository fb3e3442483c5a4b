"""Training: recipes, one loop, and what a run leaves behind."""
