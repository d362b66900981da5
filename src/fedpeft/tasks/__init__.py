"""Data sets, prompts, partitions over clients, metrics."""
