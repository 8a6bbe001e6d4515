"""Per-request decoding, for any engine that runs many requests in one batch: imports no engine.

    settings.py    what an engine serves and what a request asks of it, checked, in words
    rows.py        which row of the running batch asks for what
    bans.py        rows whose plausible tokens are banned
    decoder.py     the layers of a batch to scores, by the configuration of each row

An engine's side (integrations/vllm) captures the layers, lends the readout and says whose rows they are.
"""
