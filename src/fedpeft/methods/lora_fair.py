"""LoRA-FAIR: means of A and B, with B corrected towards the mean of the products. Bian et al., arXiv 2411.14961.

The paper's: the server looks for dB such that (B + dB) A is near mean_k(B_k A_k), with dB kept small. Derived: with a
ridge term it has a closed form in r x r solves; the paper iterates. Approximate: one rank-r pair cannot hold the mean.
"""

from collections.abc import Sequence

from pydantic import Field

from fedpeft.aggregation import mean_tensors, ridge_corrected_mean
from fedpeft.federation.message import Reply
from fedpeft.federation.method import example_weights
from fedpeft.methods.common.fedavg import GlobalState, server_step
from fedpeft.methods.common.ranks import find_modules, get_factors, put_factors
from fedpeft.methods.fedit import FedIt, FedItOptions


class LoraFairOptions(FedItOptions):
    ridge: float = Field(0.01, gt=0, description="how strongly dB is kept small")


class LoraFair(FedIt):
    """FedIT with the corrected B."""

    Options = LoraFairOptions
    uses_client_state = False

    def aggregate(self, state: GlobalState, replies: Sequence[Reply]) -> GlobalState:
        weights = example_weights(replies)
        refined = mean_tensors([reply.tensors for reply in replies], weights)
        for module in find_modules(refined):
            pairs = [get_factors(reply.tensors, module) for reply in replies]
            refined |= put_factors(module, ridge_corrected_mean(pairs, weights, self.options.ridge))
        return server_step(state, refined, self.options)
