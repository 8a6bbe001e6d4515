"""Per-request decoding, for any engine that runs many requests in one batch. It imports no engine.

    settings.py    settings of engines and options of requests, with checks and error messages
    rows.py        the request of each row in the running batch
    bans.py        rows whose plausible tokens are banned
    counts.py      counts of rows, by method
    decoder.py     computes scores from the layers of a batch, with the configuration of each row

The engine's side (integrations/vllm) captures the layers, provides the readout and maps rows to requests.
"""
