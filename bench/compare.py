#!/usr/bin/env python3
"""perrin beside its peers on the same network, the same content of a step and the same images, in interleaved rounds on the CPU.

step       training: perrin in fp32 and bf16, the faster also as 2 ranks x 1 thread (2x1); diffusers' UNet2DModel eager (fp32, bf16 autocast,
           both memory formats) and by torch.compile (the better format of each precision); DistributedDataParallel on gloo as 2x1 in its best
           mode; "stripped", the same network without norms, activations, dropout and optimizer; "isolated", its convolutions and matrix
           products each alone in its fastest form and format, shortest of three; these two also as 2x1, two processes that have half of the
           batch each and tell each other nothing
sample     DDIM, 50 steps, batch 64: diffusers' DDIMPipeline, eager and compiled
optimizer  norm, clip, Adam and EMA: PyTorch's foreach norm, fused Adam and foreach EMA
memory     start to first step and peak memory of three, both in fp32: diffusers eager

The best mode of DDP is found as 2x1: each precision whose eager mode takes part is tried in both memory formats, and in the better of them by
torch.compile too where one process was faster for it; the fastest takes part in the rounds. Isolated chooses its forms in its trial and
says which: a convolution of a doubled image plain or as a transposed one, attention as one operator or as products and softmax.

Every ratio is above 1 where perrin is better: the median over the rounds of the quotient within a round. Equal work is checked first: the
number of parameters, and the losses of 20 steps from the same initial weights, in each precision. A mode that a first step shows to be less
than half as fast as another of its kind, as bf16 where the processor has no instructions for it, is reported with that step and left out
of the rounds.

    bench/compare.sh --build build/cpu [--only step] [--networks small] [--quick] [--json]
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

from members import FORMATS, NETWORKS, PRECISIONS, Members
from report import Report
from turns import PeerAnew, ratio

SECTIONS = ("step", "sample", "optimizer", "memory")
SAMPLING_STEPS, SAMPLE_BATCH = 50, 64
RANKS = ((1, ""), (2, "-2x1"))  # and what the names of such modes end with
# Minutes before the rounds, and of a round, on two quiet cores with AVX2.
MINUTES = {("step", "small"): (8, 0.8), ("step", "ddpm-cifar10"): (16.5, 1.8), ("sample", "small"): (2, 0.5), ("sample", "ddpm-cifar10"): (6, 8.3),
           ("optimizer", "small"): (0.3, 0.1), ("optimizer", "ddpm-cifar10"): (0.5, 0.2), ("memory", "small"): (0.1, 0.2),
           ("memory", "ddpm-cifar10"): (0.2, 0.4)}
COMPILING = {"step": 4.5, "sample": 1}  # of the minutes before the rounds


class Comparison(Members):
    """Its sections."""

    def step(self):
        losses = {"fp32": self.export()["losses"]}
        variants = []
        for name, options in self.arguments.perrin.items():
            program = self.perrin_step(options)
            if self.try_perrin(f"perrin-{name}", program, ["--warm-up", 1, "--steps", 1]):
                variants.append(f"perrin-{name}")
                if name == "bf16":
                    losses[name] = program.run("--warm-up", CHECKED_STEPS, "--steps", 1, "--losses")["losses"]

        formats = {}
        for precision in PRECISIONS:
            eager = [f for f in FORMATS if self.join(f"diffusers-{precision}-{f}", self.task("step", precision, f), kind="peer")]
            if eager:
                formats[precision] = max(eager, key=lambda f: self.trials[f"diffusers-{precision}-{f}"])
                name = f"diffusers-{precision}-{formats[precision]}"
                if precision in losses:
                    self.check_losses(name, losses[precision], self.members[name])
        self.join_compiled("peer", formats, self.task("step"))
        for precision in PRECISIONS:
            for ranks, suffix in RANKS:  # who is too slow as one is not tried as two
                task = self.task("step", precision, how="stripped", ranks=ranks)
                if not self.join_better_format("stripped", f"stripped-{precision}", task, suffix):
                    break
            for ranks, suffix in RANKS:
                task = self.task("isolated", precision, ranks=ranks)
                if not self.join(f"isolated-{precision}{suffix}", task, kind="isolated", share=2):  # it tries both formats
                    break
        self.join_ddp(formats)
        best = self.fastest_of(variants)
        self.members[f"{best}-2x1"] = self.perrin_step(self.arguments.perrin[best.removeprefix("perrin-")], ranks=2)

        values = self.values(self.setting["steps"])
        self.report.values("step", self.network, "images_per_second", values)
        self.report.ratios("step", self.network, step_ratios(values, variants, best))

    def join_ddp(self, formats):
        """@param formats  the better one of each precision in one process"""
        joined = []
        for precision, of_one in formats.items():
            task = self.task("step", precision, ranks=2)
            if (better := self.join_better_format("ddp", f"ddp-{precision}", task, "-2x1")) is None:
                continue
            joined.append(f"ddp-{precision}-{better}-2x1")
            # Compiling for one thread takes minutes once more, so only where it was worth it for two. Of the small network compiled and eager
            # were equally fast on one thread (0.96, median of 5 turns) on the machine where two threads compiled ran at 0.93 of eager.
            if self.trials.get(f"compiled-{precision}-{of_one}", 0) > self.trials[f"diffusers-{precision}-{of_one}"]:
                name = f"ddp-compiled-{precision}-{better}-2x1"
                joined += [name] if self.join(name, task | {"format": better, "how": "compiled"}, kind="ddp") else []
        self.keep_fastest(joined)

    def sample(self):
        self.export()
        steps = 10 if self.arguments.quick else SAMPLING_STEPS
        self.setting = self.setting | {"batch": SAMPLE_BATCH}
        options = [f"--sample.batch_size={SAMPLE_BATCH}", "--sample.spacing=trailing"]
        variants = []
        for name, extra in self.arguments.perrin.items():
            program = self.perrin("sample", [*options, *extra], lambda _: [f"--sample.steps={steps}"])
            if self.try_perrin(f"perrin-{name}", program, ["--sample.steps=2"], share=2 / steps):
                variants.append(f"perrin-{name}")
        formats = {}
        for precision in PRECISIONS:
            task = self.task("sample", precision, sampling_steps=steps)
            if better := self.join_better_format("peer", f"diffusers-{precision}", task, share=1 / steps):
                formats[precision] = better
        self.join_compiled("peer", formats, self.task("sample", sampling_steps=steps), share=1 / steps)
        values = self.values(0)
        self.report.values("sample", self.network, "images_per_second", values)
        best = max(variants, key=lambda name: statistics.median(values[name]))
        ratios = {}
        for what in ("diffusers", "compiled"):
            if others := [name for name in values if name.startswith(what)]:
                other = max(others, key=lambda name: statistics.median(values[name]))
                ratios[f"ratio_sample_best_vs_{'best_eager' if what == 'diffusers' else what}"] = ratio(values[best], values[other])
        self.report.ratios("sample", self.network, ratios)

    def optimizer(self):
        self.export()
        self.members["perrin"] = self.perrin("optimizer", [], figure="seconds", rounds=10)
        self.join("torch-fused-adam", self.task("optimizer"))
        answers = self.turns(0)
        seconds = {name: [answer["value"] for answer in rounds] for name, rounds in answers.items()}
        self.report.values("optimizer", self.network, "seconds", seconds)
        ratios = {"ratio_optimizer_vs_copy": statistics.median(answer["ratio_optimizer_vs_copy"] for answer in answers["perrin"])}
        if "torch-fused-adam" in seconds:
            ratios["ratio_optimizer_vs_torch"] = ratio(seconds["torch-fused-adam"], seconds["perrin"])
        self.report.ratios("optimizer", self.network, ratios)

    def memory(self):
        """Both started anew in every round, for 3 steps in fp32."""
        self.export()
        program = self.perrin("step", ["--train.precision=fp32"], lambda steps: ["--warm-up", 1, "--steps", steps - 1])
        self.members = {"perrin": program, "diffusers": PeerAnew(self.task("step"))}
        answers = self.turns(3)
        ratios = {}
        for key, unit, factor, what in (("first_step_seconds", "seconds_to_first_step", 1, "first_step"), ("peak_bytes", "peak_megabytes", 1e-6, "peak_memory")):
            values = {name: [factor * answer[key] for answer in rounds] for name, rounds in answers.items()}
            self.report.values("memory", self.network, unit, values)
            if "diffusers" in values:
                ratios[f"ratio_{what}_vs_diffusers"] = ratio(values["diffusers"], values["perrin"])
        self.report.ratios("memory", self.network, ratios)


def step_ratios(values, variants, tried_best):
    """The best mode of ours by the best of theirs. @param tried_best  the variant that also ran as two ranks"""
    def of(*prefixes):
        return [name for name in values if name.startswith(prefixes)]

    def ways(*names):
        return [way for name in names for way in (name, f"{name}-2x1") if way in values]

    ratios = {}

    def add(what, ours, theirs):
        if ours and theirs:
            best, other = (max(names, key=lambda name: statistics.median(values[name])) for names in (ours, theirs))
            ratios[f"ratio_step_{what}"] = ratio(values[best], values[other])

    peers, two_ranks = of("diffusers", "compiled", "ddp"), f"{tried_best}-2x1"
    add("best_vs_best_peer", ways(*variants), peers)
    add("best_vs_stripped", ways(*variants), of("stripped"))
    add("best_vs_isolated", ways(*variants), of("isolated"))
    add("best_vs_diffusers_as_it_comes", variants, of("diffusers-fp32-nchw"))  # one process on each side
    for precision in PRECISIONS:
        ours = ways(f"perrin-{precision}")
        add(f"{precision}_vs_best_peer_{precision}", ours, [peer for peer in peers if f"-{precision}-" in peer])
        add(f"{precision}_vs_stripped_{precision}", ours, of(f"stripped-{precision}"))
        add(f"{precision}_vs_isolated_{precision}", ours, of(f"isolated-{precision}"))
    for name in variants:
        if (other := name.removeprefix("perrin-")) not in PRECISIONS:
            add(f"{other}_vs_best_peer", ways(name), peers)
            add(f"{other}_vs_stripped", ways(name), of("stripped"))
    add("2x1_vs_1x2", [two_ranks], [tried_best])
    add("2x1_vs_ddp", [two_ranks], of("ddp"))
    return ratios


def perrin_variants(texts):
    """{"bf16": ["--train.precision=bf16"]} of "bf16=--train.precision=bf16", after the two precisions."""
    return {name: [f"--train.precision={name}"] for name in PRECISIONS} | {name: options.split() for name, _, options in (text.partition("=") for text in texts)}


def minutes(section, network, arguments):
    before, round_minutes = MINUTES[section, network]
    if arguments.no_compile or arguments.quick:
        before -= COMPILING.get(section, 0)
    return before + arguments.rounds * round_minutes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=Path("build/cpu"), help="build folder, with perrin")
    parser.add_argument("--only", choices=SECTIONS, help="one section")
    parser.add_argument("--networks", help=f"of {','.join(NETWORKS)} (default: both, but sample small and optimizer ddpm-cifar10; quick small)")
    parser.add_argument("--rounds", type=int, help="default 5, quick 2")
    parser.add_argument("--budget", type=float, metavar="MINUTES", help="after which no round begins but the first of a section (default: 25, quick 6)")
    parser.add_argument("--threads", type=int, default=2, help="of all ranks together (default: 2)")
    parser.add_argument("--perrin", action="append", default=[], metavar="NAME=OPTIONS",
                        help="another way to run perrin beside fp32 and bf16, with options of the configuration; repeatable")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile, which takes minutes")
    parser.add_argument("--quick", action="store_true", help="the small network, 2 rounds, 10 sampling steps, nothing compiled: to see that it works")
    parser.add_argument("--json", action="store_true", help="one object a line")
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (2 if arguments.quick else 5)
    arguments.budget = arguments.budget or (6 if arguments.quick else 25)
    arguments.perrin = perrin_variants(arguments.perrin)
    given = (arguments.networks or ("small" if arguments.quick else ",".join(NETWORKS))).split(",")
    if unknown := [name for name in given if name not in NETWORKS]:
        parser.error(f"unknown network {unknown[0]}; there are {', '.join(NETWORKS)}")
    of_section = {"step": given, "memory": given, "sample": ["small"] if len(given) > 1 else given,
                  "optimizer": ["ddpm-cifar10"] if len(given) > 1 else given}
    work = [(section, network) for section in ([arguments.only] if arguments.only else SECTIONS) for network in of_section[section]]

    report = Report(arguments.json)
    estimate = {item: minutes(*item, arguments) for item in work}
    whole = sum(estimate.values())
    report.say(f"{cpu_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {arguments.threads} threads, medians of {arguments.rounds} rounds in turns; "
               "ratios above 1: perrin is better")
    report.say(f"about {whole:.0f} minutes on two quiet cores; the budget is {arguments.budget:g}: fewer rounds where it does not suffice")
    begun, used = time.monotonic(), 0.0
    for section, network in work:
        used += estimate[section, network]
        deadline = begun + 60 * arguments.budget * used / whole
        with tempfile.TemporaryDirectory() as folder:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder) / "compiled")  # nothing compiled before
            report.say(f"{section}, {network}")
            comparison = Comparison(arguments, report, Path(folder), section, network, deadline)
            try:
                getattr(comparison, section)()
            finally:
                comparison.close()
        report.say(f"  {(time.monotonic() - begun) / 60:.1f} minutes so far, load {os.getloadavg()[0]:.1f}")
    report.end()


def cpu_name():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
