"""fedpeft: federated fine-tuning of pre-trained language models for clients that differ."""

__version__ = "0.1.0"
