"""LoRA: its configuration, rows masked before training, the frozen delta beside the pair, export."""
