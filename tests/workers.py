"""Workers that share out a vocabulary, as threads of one process."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch


def together(workers, work):
    """The results of `work(rank, gather)` in that many threads; `gather` exchanges values between them."""
    barrier, shared = threading.Barrier(workers), [None] * workers

    def run(rank):
        def gather(value):
            shared[rank] = value
            barrier.wait(timeout=60)
            found = torch.stack(shared)
            barrier.wait(timeout=60)
            return found

        return work(rank, gather)

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(run, range(workers)))
