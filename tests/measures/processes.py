"""Work on two processes of one gloo group, as two ranks of a cluster do it."""

import multiprocessing as mp

import torch


def on_two_ranks(work, folder):
    """What `work(rank)` gives on the second of two ranks; within it torch.distributed is set up."""
    context = mp.get_context("fork")
    out = context.Queue()
    ranks = [context.Process(target=_run, args=(work, rank, folder / "store", out), daemon=True) for rank in range(2)]
    for process in ranks:
        process.start()
    value = out.get(timeout=60)
    for process in ranks:
        process.join()
    return value


def _run(work, rank, store, out):
    torch.set_num_threads(1)  # a forked process has none of its parent's OpenMP threads, and would wait for them
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    value = work(rank)
    if rank == 1:
        out.put(value)
    torch.distributed.destroy_process_group()
