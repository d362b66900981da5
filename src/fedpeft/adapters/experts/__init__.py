"""Several LoRA experts on one layer, mixed by a gate: frozen and trained ones beside each other."""
