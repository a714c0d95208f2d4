"""Runs a function in several processes joined by gloo, and brings back what each returns."""

import os
from pathlib import Path

import torch
from torch import distributed, multiprocessing


def _enter(rank, ranks, folder, function, args):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks)
    try:
        torch.save(function(*args), Path(folder) / f"answer-{rank}.pt")
    finally:
        distributed.destroy_process_group()


def run_on_ranks(ranks, folder, function, *args):
    """What `function(*args)` returns on each rank, in the order of ranks."""
    multiprocessing.spawn(_enter, (ranks, str(folder), function, args), nprocs=ranks)
    return [torch.load(Path(folder) / f"answer-{rank}.pt") for rank in range(ranks)]
