"""The loop that one writes without any framework: one process, torch's default threads, FedAvg over state dicts."""

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from work import Rounds, Work, contest, train


def run(work: Work, rounds: Rounds) -> None:
    model = work.model()
    state = {name: tensor.clone() for name, tensor in get_peft_model_state_dict(model).items()}
    for round_ in range(1, work.settings.rounds + 1):
        rounds.begin()
        losses, replies = [], []
        for client in work.rows:
            set_peft_model_state_dict(model, state)
            losses.append(train(model, work, client, round_))
            replies.append({name: tensor.clone() for name, tensor in get_peft_model_state_dict(model).items()})
        # every client holds as many rows as the others
        state = {name: torch.stack([reply[name] for reply in replies]).mean(0) for name in state}
        rounds.end(losses)


if __name__ == "__main__":
    contest(run)
