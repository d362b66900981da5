"""FedAvg, then local training: the plainest personalisation, which any other one has to beat.

LoRA and head are averaged as in FedIT; at the end each client deploys what its own training makes of the mean that it
received. Fine-tuning FedAvg's model is studied by Jiang et al., arXiv 1909.12488. Ours [choice]: the last round's local
training is the fine-tuning, so that the method takes as many steps and bytes as the others of a comparison; a client
that the last round did not draw deploys what its latest one left. Under `deploy: validation` FedIT's clients have the
same two models to choose from; here none of them keeps the mean.
"""

from fedpeft.methods.common.rotation import FactorMean


class FedAvgFt(FactorMean):
    """FedAvg over LoRA's A and B, and the head; clients deploy their trained models."""

    model_choices = ("trained",)
