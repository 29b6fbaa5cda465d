#!/usr/bin/env python3
"""perrin beside its peers on the same network, the same content of a step and the same images, in interleaved rounds on the CPU.

step       training: diffusers' UNet2DModel eager (fp32, bf16 autocast, both memory formats) and by torch.compile (the better format of
           each precision); "stripped", the same network without norms, activations, dropout and optimizer; "isolated", its convolutions and
           matrix products each alone in their better format; 2 ranks x 1 thread against DistributedDataParallel on gloo
sample     DDIM, 50 steps, batch 64: diffusers' DDIMPipeline, eager and compiled
optimizer  norm, clip, Adam and EMA: PyTorch's foreach norm, fused Adam and foreach EMA
memory     start to first step and peak memory: diffusers eager as it comes

Every ratio is above 1 where perrin is better: the median over the rounds of the quotient within a round. Equal work is checked first: the
number of parameters, and the losses of 20 steps from the same initial weights.

    bench/compare.sh --build build/cpu [--only step] [--networks small] [--quick] [--json]
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from turns import Peer, Program, WorkerFailed, ratio, take_turns

NETWORKS = {"small": {"shape": (1, 28, 28), "batch": 64, "steps": 4}, "ddpm-cifar10": {"shape": (3, 32, 32), "batch": 8, "steps": 2}}
SECTIONS = ("step", "sample", "optimizer", "memory")
CHECKED_STEPS = 20
LOSS_TOLERANCE = 0.05  # of the mean of 20 losses, whose noise differs: t and eps are other draws
SAMPLING_STEPS, SAMPLE_BATCH = 50, 64


class Report:
    """A table for people or one JSON object a line."""

    def __init__(self, as_json):
        self.as_json, self.skipped = as_json, []

    def say(self, text):
        print(text, file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def skip(self, what, why):
        self.skipped.append(what)
        self.say(f"skipped: {what}: {why}")

    def values(self, section, network, unit, values):
        for name, rounds in values.items():
            row = {"section": section, "network": network, "name": name, unit: statistics.median(rounds), "lowest": min(rounds),
                   "highest": max(rounds), "rounds": len(rounds)}
            print(json.dumps(row)) if self.as_json else print(f"  {name:<24}{row[unit]:>10.4g} {unit} ({row['lowest']:.4g} to {row['highest']:.4g})")

    def ratios(self, section, network, ratios):
        if self.as_json:
            print(json.dumps({"section": section, "network": network, **ratios}), flush=True)
        for name, value in ratios.items() if not self.as_json else ():
            print(f"  {name:<48}{value:>7.2f}", flush=True)


class Comparison:
    def __init__(self, arguments, report, folder):
        self.arguments, self.report, self.folder = arguments, report, folder
        self.binary = arguments.build / "launch/perrin"

    # Both sides

    def perrin(self, command, network, options=(), ranks=1, figure="images_per_second"):
        threads = self.arguments.threads // ranks
        return Program(self.binary, [command, network, f"--distributed.threads={threads}", "--distributed.device=cpu", *options], figure, ranks)

    def variants(self, command, network, options=(), ranks=1):
        """perrin in every way that --perrin names."""
        return {name: self.perrin(command, network, [*options, *extra], ranks) for name, extra in self.arguments.perrin.items()}

    def task(self, network, kind, precision="fp32", memory_format="nchw", how="eager", threads=None, **more):
        setting = NETWORKS[network]
        return {"kind": kind, "folder": str(self.folder / network), "shape": setting["shape"], "batch": setting["batch"], "precision": precision,
                "format": memory_format, "how": how, "threads": threads or self.arguments.threads, **more}

    def start(self, name, task, ranks=1, warm_up=2):
        """A peer that has warmed up, and what it said then; None if it cannot run here."""
        peer = Peer(task, ranks)
        try:
            return peer, peer.ask("warm_up", warm_up)
        except WorkerFailed as failure:
            peer.close()
            self.report.skip(name, failure)
            return None, {}

    def export(self, network):
        """Leaves the initial weights for the peers. @return perrin's report of the first 20 steps"""
        steps = CHECKED_STEPS if self.checks(network) else 1
        options = ["--rounds", 1, "--steps", 1, "--warm-up", steps, "--losses", *next(iter(self.arguments.perrin.values()))]
        return self.perrin("step", network, [*options, "--output", self.folder / network]).run()

    def checks(self, network):
        return network == "small" or not self.arguments.quick

    def check_equal_work(self, network, name, said, perrin):
        if said["parameters"] != perrin["parameters"]:
            sys.exit(f"{name} has {said['parameters']} parameters, perrin {perrin['parameters']}")
        if "losses" not in said or not self.checks(network):
            return
        ours, theirs = perrin["losses"][:CHECKED_STEPS], said["losses"][:CHECKED_STEPS]
        for what, part in (("first 20", slice(0, None)), ("last 5 of them", slice(-5, None))):
            a, b = statistics.mean(ours[part]), statistics.mean(theirs[part])
            self.report.say(f"  mean loss of the {what} steps: perrin {a:.4f}, {name} {b:.4f}")
            if part.start == 0 and abs(a - b) > LOSS_TOLERANCE * b:
                sys.exit(f"perrin and {name} do not do the same work: the losses differ by more than {LOSS_TOLERANCE:.0%}")

    # Sections

    def best(self, network, kind, precision, how, **more):
        """The faster of the memory formats, by one turn each."""
        found = {}
        for memory_format in ("nchw", "nhwc"):
            name = f"{how}-{precision}"
            peer, said = self.start(f"{name}-{memory_format}", self.task(network, kind, precision, memory_format, how, **more))
            if peer:
                found[memory_format] = (peer.ask("measure", NETWORKS[network]["steps"])["value"], peer, said)
        ordered = sorted(found.items(), key=lambda item: item[1][0], reverse=True)
        for _, (_, peer, _) in ordered[1:]:
            peer.close()
        return (ordered[0][0], ordered[0][1][1], ordered[0][1][2]) if ordered else (None, None, {})

    def eager(self, network, perrin):
        """diffusers in its four modes; {name: peer} and {precision: better format}."""
        peers, speeds = {}, {}
        for precision in ("fp32", "bf16"):
            for memory_format in ("nchw", "nhwc"):
                name = f"diffusers-{precision}-{memory_format}"
                first = not peers
                warm_up = CHECKED_STEPS if first and self.checks(network) else 2
                peer, said = self.start(name, self.task(network, "step", precision, memory_format), warm_up=warm_up)
                if peer is None:
                    continue
                if first:
                    self.check_equal_work(network, name, said, perrin)
                peers[name] = peer
                speeds[precision, memory_format] = peer.ask("measure", NETWORKS[network]["steps"])["value"]
        better = {p: max(("nchw", "nhwc"), key=lambda f: speeds.get((p, f), 0)) for p in ("fp32", "bf16")}
        return peers, better, max(speeds, key=speeds.get)

    def compiled(self, network, kind, better, **more):
        if self.arguments.no_compile or shutil.which("g++") is None:
            for precision in better:
                self.report.skip(f"compiled-{precision}", "--no-compile" if self.arguments.no_compile else "there is no g++")
            return {}
        peers = {}
        for precision, memory_format in better.items():
            name = f"compiled-{precision}-{memory_format}"
            peer, said = self.start(name, self.task(network, kind, precision, memory_format, "compiled", **more))
            if peer:
                peers[name] = peer
                self.report.say(f"  {name}: compiled in {said['first_step_alone_seconds']:.0f} s")
        return peers

    def step(self, network):
        setting = NETWORKS[network]
        perrin_report = self.export(network)
        options = ["--rounds", 1, "--warm-up", 2, "--steps", setting["steps"]]
        members = self.variants("step", network, options)
        perrin_names = list(members)
        eager, better, (best_precision, best_format) = self.eager(network, perrin_report)
        compiled = self.compiled(network, "step", better)
        members |= eager | compiled
        limits = []
        for precision in ("fp32", "bf16"):
            memory_format, peer, _ = self.best(network, "step", precision, "stripped")
            isolated, _ = self.start(f"isolated-{precision}", self.task(network, "isolated", precision))
            members |= {f"{name}-{precision}": member for name, member in (("stripped", peer), ("isolated", isolated)) if member}
            limits += [f"stripped-{precision}", f"isolated-{precision}"]
        ddp, _ = self.start("ddp", self.task(network, "step", best_precision, best_format, "ddp", threads=self.arguments.threads // 2), ranks=2)
        two_ranks = {f"{name}-2x1": member for name, member in self.variants("step", network, options, ranks=2).items()}
        members |= two_ranks | ({"ddp-gloo-2x1": ddp} if ddp else {})
        values = self.turns(members, setting["steps"])

        self.report.values("step", network, "images/s", values)
        for name in perrin_names:
            suffix = "" if len(perrin_names) == 1 else f"_{name}"
            ratios = {f"ratio_step{suffix}_vs_{peer}": ratio(values[name], values[peer]) for peer in [*eager, *compiled, *limits] if peer in values}
            peer = max([*eager, *compiled], key=lambda peer: statistics.median(values[peer]))
            ratios[f"ratio_step{suffix}_vs_best_peer"] = ratio(values[name], values[peer])
            ratios[f"ratio_step_2x1{suffix}_vs_1x2"] = ratio(values[f"{name}-2x1"], values[name])
            if ddp:
                ratios[f"ratio_step_2x1{suffix}_vs_ddp"] = ratio(values[f"{name}-2x1"], values["ddp-gloo-2x1"])
            self.report.ratios("step", network, ratios)

    def sample(self, network):
        sampling_steps = 10 if self.arguments.quick else SAMPLING_STEPS
        self.export(network)
        options = ["--rounds", 1, f"--sample.steps={sampling_steps}", f"--sample.batch_size={SAMPLE_BATCH}", "--sample.spacing=trailing"]
        members = self.variants("sample", network, options)
        perrin_names = list(members)
        more = {"sampling_steps": sampling_steps, "batch": SAMPLE_BATCH}
        better = {}
        for precision in ("fp32", "bf16"):
            memory_format, peer, _ = self.best(network, "sample", precision, "eager", **more)
            if peer:
                members[f"diffusers-{precision}-{memory_format}"] = peer
                better[precision] = memory_format
        members |= self.compiled(network, "sample", better, **more)
        values = self.turns(members, 0)
        self.report.values("sample", network, "images/s", values)
        for name in perrin_names:
            suffix = "" if len(perrin_names) == 1 else f"_{name}"
            self.report.ratios("sample", network, {f"ratio_sample{suffix}_vs_{peer}": ratio(values[name], values[peer])
                                                   for peer in values if peer not in perrin_names})

    def optimizer(self, network):
        perrin = self.export(network)
        program = self.perrin("optimizer", network, ["--rounds", 10], figure="seconds")
        peer, said = self.start("torch-fused-adam", self.task(network, "optimizer"))
        self.check_equal_work(network, "torch-fused-adam", said, perrin)
        values, shares = {"perrin": [], "torch-fused-adam": []}, []
        for _ in range(self.arguments.rounds):
            report = program.run()
            values["perrin"].append(report["seconds"])
            shares.append(report["ratio_optimizer_vs_copy"])
            values["torch-fused-adam"].append(peer.ask("measure")["value"])
        peer.close()
        self.report.values("optimizer", network, "seconds", values)
        self.report.ratios("optimizer", network, {"ratio_optimizer_vs_torch": ratio(values["torch-fused-adam"], values["perrin"]),
                                                  "ratio_optimizer_vs_copy": statistics.median(shares)})

    def memory(self, network):
        """Both started anew in every round, for 3 steps."""
        self.export(network)
        first, peak = {"perrin": [], "diffusers": []}, {"perrin": [], "diffusers": []}
        for _ in range(self.arguments.rounds):
            report = self.perrin("step", network, ["--rounds", 1, "--warm-up", 2, "--steps", 1, *next(iter(self.arguments.perrin.values()))]).run()
            first["perrin"].append(report["first_step_seconds"])
            peak["perrin"].append(report["peak_bytes"] / 1e6)
            peer, said = self.start("diffusers", self.task(network, "step"))
            first["diffusers"].append(said["first_step_seconds"])
            peak["diffusers"].append(peer.ask("measure", 1)["peak_bytes"] / 1e6)
            peer.close()
        self.report.values("start to first step", network, "seconds", first)
        self.report.values("peak memory", network, "MB", peak)
        self.report.ratios("memory", network, {"ratio_first_step_vs_diffusers": ratio(first["diffusers"], first["perrin"]),
                                               "ratio_peak_memory_vs_diffusers": ratio(peak["diffusers"], peak["perrin"])})

    def turns(self, members, steps):
        try:
            return take_turns(members, self.arguments.rounds, steps)
        finally:
            for member in members.values():
                member.close()


def perrin_variants(texts):
    """{"bf16": ["--model.precision=bf16"]} of "bf16=--model.precision=bf16"."""
    return {name: options.split() for name, _, options in (text.partition("=") for text in texts)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=Path("build/cpu"), help="build folder, with perrin")
    parser.add_argument("--only", choices=SECTIONS, help="one section")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="of %(default)s; sample and optimizer have one each unless it is given")
    parser.add_argument("--rounds", type=int, help="default 5, quick 2")
    parser.add_argument("--threads", type=int, default=2, help="of all ranks together (default: 2)")
    parser.add_argument("--perrin", action="append", metavar="NAME=OPTIONS", help="a way to run perrin, with options of the configuration; repeatable")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile, which takes minutes")
    parser.add_argument("--quick", action="store_true", help="2 rounds, 10 sampling steps, no losses of the large network: to see that it works")
    parser.add_argument("--json", action="store_true", help="one object a line")
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (2 if arguments.quick else 5)
    arguments.perrin = perrin_variants(arguments.perrin or ["perrin="])
    given = [name for name in arguments.networks.split(",") if name]
    if unknown := [name for name in given if name not in NETWORKS]:
        parser.error(f"unknown network {unknown[0]}; there are {', '.join(NETWORKS)}")
    of_section = {"step": given, "memory": given, "sample": ["small"] if len(given) > 1 else given,
                  "optimizer": ["ddpm-cifar10"] if len(given) > 1 else given}

    report = Report(arguments.json)
    report.say(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {arguments.threads} threads, medians "
               f"of {arguments.rounds} rounds in turns; ratios above 1: perrin is better")
    for section in [arguments.only] if arguments.only else SECTIONS:
        for network in of_section[section]:
            with tempfile.TemporaryDirectory() as folder:
                report.say(f"{section}, {network}")
                getattr(Comparison(arguments, report, Path(folder)), section)(network)
    report.say(f"{len(report.skipped)} skipped{': ' if report.skipped else ''}{', '.join(report.skipped)}")


if __name__ == "__main__":
    main()
