"""How a `config.json` becomes a `DecoderConfig`: a file for every family."""
