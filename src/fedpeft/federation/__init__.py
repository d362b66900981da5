"""The round: messages, client side, server side, state and checkpoints. Knows no paper and no engine."""
