"""From logits to a token, on the host: settings, penalties, the draw, log probabilities."""
