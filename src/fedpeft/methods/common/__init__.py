"""What several methods share: bases, options, ranks, cumulative deltas, masked uploads, experts, orthonormal R."""
