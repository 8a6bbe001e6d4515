"""`transformers serve` with DoLa: python examples/transformers_serve.py MODEL --port 8000

All arguments go to `transformers serve`. A request chooses its layers with "dola_layers" in its `generation_config`. A request
without a `generation_config` has the layers of the model's generation_config.json. Without layers, decoding is plain.
"""

import sys

from transformers.cli.transformers import main

import dola

if __name__ == "__main__":
    dola.install()
    sys.argv[1:] = ["serve", *sys.argv[1:]]
    main()
