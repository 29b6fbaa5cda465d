"""torch.distributed's all_reduce over gloo as `perrin bench comm` measures its own: gloo_allreduce.py STORE REPEAT BYTES... prints one
JSON object with the median seconds of the slowest rank for each size. float32, in place, buffers touched. STORE is a new file's path."""

import json
import os
import statistics
import sys
import time

import torch
import torch.distributed as dist

WARM_UPS = 2


def median_seconds(elements, repeat):
    data = torch.ones(elements)
    seconds = []
    for i in range(-WARM_UPS, repeat):
        dist.barrier()
        begun = time.perf_counter()
        dist.all_reduce(data)
        slowest = torch.tensor([time.perf_counter() - begun], dtype=torch.float64)
        dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
        if i >= 0:
            seconds.append(slowest.item())
    return statistics.median(seconds)


if __name__ == "__main__":
    store, repeat, *sizes = sys.argv[1:]
    rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=int(os.environ["OMPI_COMM_WORLD_SIZE"]))
    medians = {size: median_seconds(int(size) // 4, int(repeat)) for size in sizes}
    if rank == 0:
        print(json.dumps(medians))
    dist.destroy_process_group()
