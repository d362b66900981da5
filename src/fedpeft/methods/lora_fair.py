"""LoRA-FAIR: means of A and B, with B corrected towards the mean of the products. Bian et al., arXiv 2411.14961.

The paper's: the server looks for dB such that (B + dB) A is near mean_k(B_k A_k), with dB kept small. Derived: with a
ridge term it has a closed form in r x r solves; the paper iterates. Approximate: one rank-r pair cannot hold the mean.
"""

from collections.abc import Sequence

from pydantic import Field

from fedpeft.aggregation import mean_tensors, ridge_refined
from fedpeft.federation.message import Reply
from fedpeft.federation.method import by_examples
from fedpeft.methods.fedavg import GlobalState, moved
from fedpeft.methods.fedit import FedIt, FedItOptions
from fedpeft.methods.ranks import modules_of, named, pair


class LoraFairOptions(FedItOptions):
    ridge: float = Field(0.01, gt=0, description="how strongly dB is kept small")


class LoraFair(FedIt):
    """FedIT with the corrected B."""

    Options = LoraFairOptions
    remembers = False

    def aggregate(self, state: GlobalState, replies: Sequence[Reply]) -> GlobalState:
        weights = by_examples(replies)
        refined = mean_tensors([reply.tensors for reply in replies], weights)
        for module in modules_of(refined):
            pairs = [pair(reply.tensors, module) for reply in replies]
            refined |= named(module, ridge_refined(pairs, weights, self.options.ridge))
        return moved(state, refined, self.options)
