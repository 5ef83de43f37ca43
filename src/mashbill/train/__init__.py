"""From a recipe to a student: rows, targets, the training loop, checkpoints, evaluation and comparison."""
