"""FedIT: LoRA factors averaged one by one. Zhang et al., "Towards Building the Federated GPT", arXiv 2305.05644.

The paper's: every client trains A and B on all its data, the server takes the mean of the A's and the mean of the
B's, weighted by the number of examples. Mean(B) mean(A) is not mean(B A): the aggregate is not exact, and the paper
does not claim it. Ours [choice]: the classification head travels and is averaged with them.
"""

from fedpeft.methods.common.rotation import FactorMean


class FedIt(FactorMean):
    """FedAvg over LoRA's A and B, and the head."""
