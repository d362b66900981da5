"""LoRA-FAIR: means of A and B, with B corrected towards the mean of the products. Bian et al., arXiv 2411.14961.

The paper's: the server looks for dB such that (B + dB) A is near mean_k(B_k A_k), with dB kept small. Derived: with a
ridge term it has a closed form in r x r solves; the paper iterates. Approximate: one rank-r pair cannot hold the mean.
"""

from collections.abc import Sequence

from pydantic import Field

from fedpeft.aggregation import ridge_corrected_mean
from fedpeft.federation.message import Reply, Tensors
from fedpeft.federation.method import example_weights
from fedpeft.methods.common.lora_tensors import find_modules, get_factors, put_factors
from fedpeft.methods.common.options import FactorMeanOptions
from fedpeft.methods.common.rotation import FactorMean


class LoraFairOptions(FactorMeanOptions):
    ridge: float = Field(0.01, gt=0, description="how strongly the correction of B is kept small")


class LoraFair(FactorMean):
    """FedAvg over A, B and the head, with the corrected B."""

    Options = LoraFairOptions

    def average(self, replies: Sequence[Reply]) -> Tensors:
        mean, weights = super().average(replies), example_weights(replies)
        for module in find_modules(mean):
            pairs = [get_factors(reply.tensors, module) for reply in replies]
            mean |= put_factors(module, ridge_corrected_mean(pairs, weights, self.options.ridge))
        return mean
