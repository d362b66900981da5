"""What a table of methods may claim: pure functions on scores and costs. Numpy and scipy, nothing of ours."""
