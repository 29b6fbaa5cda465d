#!/usr/bin/env python3
"""One peer in a process of its own, which computes only when asked: each line of standard input is a JSON request, each answer a JSON
line. bench/compare.py starts it; its request "measure" is one turn, which begins untimed as one of perrin does. Ranks are asked alike, each
by its own pipe."""

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def seconds_since_start():
    """Of this process, by proc(5), to 10 ms."""
    fields = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def peak_bytes():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


class Step:
    """Training steps of one mode. Several ranks are DDP on gloo, but for the stripped network, whose ranks have nothing to tell each other."""

    def __init__(self, task):
        import torch

        from peers import content, network

        rank, ranks = content.rank_and_ranks()
        torch.manual_seed(rank)
        module = network.load(task["folder"])
        self.parameters = network.parameters_of(module)
        stripped = task["how"] == "stripped"
        if stripped:
            network.strip(module)
        memory_format = network.FORMATS[task["format"]]
        module = module.to(memory_format=memory_format)
        predicting = module
        if ranks > 1 and not stripped:
            torch.distributed.init_process_group("gloo")
            predicting = torch.nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=True)
        predict = network.predictor(predicting, task["precision"], compiled=task["how"] == "compiled")
        self.steps = content.TrainingSteps(module, predict, task["shape"], task["batch"], optimizer=not stripped, memory_format=memory_format)

    def first(self, _):
        value = self.steps.images_per_second(1)
        return {"value": value, "first_step_seconds": seconds_since_start(), "seconds": len(self.steps.rows) / value}

    def trial(self, _):
        return {"value": self.steps.images_per_second(1)}

    def losses(self, steps):
        return {"losses": self.steps.first_losses(steps)}

    def measure(self, steps):
        self.steps.images_per_second(1)
        return {"value": self.steps.images_per_second(steps), "peak_bytes": peak_bytes()}


class Isolated:
    def __init__(self, task):
        from peers import content, isolated, network

        model = network.load(task["folder"]).eval()
        self.parameters = network.parameters_of(model)
        images = len(content.rows_of_rank(task["batch"]))
        calls = isolated.calls_of(model, task["shape"], images)
        self.prepare = lambda: isolated.Isolated(calls, images, network.TYPES[task["precision"]])

    def first(self, _):
        self.work = self.prepare()  # calls each operation already
        return {"value": self.work.images_per_second(1)}

    def trial(self, _):
        chosen = self.work.keep_fastest_forms()
        return {"value": self.work.images_per_second(1), "chosen": chosen}

    def measure(self, _):
        return {"value": self.work.images_per_second(3)}


class Sample:
    """diffusers' DDIMPipeline: 50 steps, one batch."""

    def __init__(self, task):
        import torch
        from diffusers import DDIMPipeline, DDIMScheduler

        from peers import content, network

        self.torch, self.task = torch, task
        unet = network.load(task["folder"]).eval().to(memory_format=network.FORMATS[task["format"]])
        self.parameters = network.parameters_of(unet)
        if task["precision"] == "bf16":
            network.run_in_bfloat16(unet)
        if task["how"] == "compiled":
            unet.compile()
        scheduler = DDIMScheduler(num_train_timesteps=content.TIMESTEPS, beta_start=1e-4, beta_end=0.02, beta_schedule="linear",
                                  clip_sample=True, timestep_spacing="trailing")
        self.pipeline = DDIMPipeline(unet, scheduler)
        self.pipeline.set_progress_bar_config(disable=True)

    def images_per_second(self, steps):
        """At the length of a whole sampling, seen from so many of its steps."""
        begun = time.monotonic()
        self.pipeline(batch_size=self.task["batch"], num_inference_steps=steps, eta=0.0, output_type="np")
        return self.task["batch"] / (time.monotonic() - begun) * steps / self.task["sampling_steps"]

    def first(self, _):
        begun = time.monotonic()
        return {"value": self.images_per_second(1), "seconds": time.monotonic() - begun}

    def trial(self, _):
        return {"value": self.images_per_second(1)}

    def measure(self, _):
        self.images_per_second(2)
        return {"value": self.images_per_second(self.task["sampling_steps"])}


class Optimizer:
    """Clip, fused Adam and foreach EMA over the network's own tensors."""

    def __init__(self, task):
        import torch

        from peers import content, network

        module = network.load(task["folder"])
        self.parameters = network.parameters_of(module)
        self.optimizer = content.Optimizer(module.parameters())
        self.gradients = [torch.randn_like(p) for p in self.optimizer.parameters]

    def once(self):
        for parameter, gradient in zip(self.optimizer.parameters, self.gradients):
            parameter.grad = gradient
        begun = time.monotonic()
        self.optimizer.step()
        return time.monotonic() - begun

    def first(self, _):
        self.once(), self.once()
        return {}

    def measure(self, _):
        times = sorted(self.once() for _ in range(10))
        return {"value": times[len(times) // 2]}


KINDS = {"step": Step, "isolated": Isolated, "sample": Sample, "optimizer": Optimizer}


def main():
    task = json.loads(sys.argv[1])
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    import torch

    torch.set_num_threads(task["threads"])
    work = KINDS[task["kind"]](task)
    for line in sys.stdin:
        request = json.loads(line)
        loading = request["do"] == "load"  # answered once that is over
        answer = {"parameters": work.parameters} if loading else getattr(work, request["do"])(request["steps"])
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
