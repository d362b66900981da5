"""The client side of Flower's contestant, written as Flower's examples with PEFT are.

There every message makes the model anew; with `keep` in the configuration an actor keeps its model, which is kinder
to Flower than its examples are.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from work import Work, train

app = ClientApp()


@app.train()
def train_client(message: Message, context: Context) -> Message:
    torch.set_num_threads(1)  # an actor has one core
    config: Any = message.content["config"]
    work = read(str(config["work"]))
    model = kept_model(str(config["work"])) if config["keep"] else work.model()
    set_peft_model_state_dict(model, message.content.array_records["arrays"].to_torch_state_dict())
    client = sorted(work.rows)[int(context.node_config["partition-id"])]
    loss = train(model, work, client, int(config["server-round"]))
    metrics = MetricRecord({"loss": loss, "num-examples": len(work.rows[client])})
    arrays = ArrayRecord(get_peft_model_state_dict(model))
    return Message(content=RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@cache
def read(folder: str) -> Work:
    return Work.read(Path(folder))


@cache
def kept_model(folder: str) -> PeftModel:
    return read(folder).model()
