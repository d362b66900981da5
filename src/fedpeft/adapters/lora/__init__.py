"""LoRA: options and configuration, masked rows, the frozen delta beside the trained pair, export."""
