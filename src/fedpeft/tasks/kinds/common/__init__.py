"""What several kinds of task share."""
