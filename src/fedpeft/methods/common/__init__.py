"""What several methods share: adapter options, ranks, cumulative deltas, masked uploads, orthonormal R."""
