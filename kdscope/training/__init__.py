"""The loop, evaluation, checkpoints and logging."""
