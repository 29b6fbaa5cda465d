#!/usr/bin/env python3
"""What the score of samples says of a training: a curve while it goes on, and raw weights, averages and post-hoc averages at its end.

Trains configs/quickstart.toml on Fashion-MNIST with scores inside the training, then scores every kind of weights of the last checkpoint on
the same noise. Writes PREFIX.svg (the curve) and PREFIX.md (two tables). A run that was stopped goes on with the same command.

    .venv/bin/python bench/score_curve.py --build build/cpu --folder runs/score-curve --output docs/score-curve
"""

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path

IMAGES = Path("/usr/share/datasets/fashion-mnist")
POSTHOC = ("0.05", "0.1", "0.15", "0.2", "0.25")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 360, 60, 20, 40, 50  # of the picture, and around its plane


class Program:
    """perrin on a number of ranks; what it says on stderr is shown as it comes."""

    def __init__(self, build, ranks):
        self._binary = (build / "launch/perrin").resolve()
        self._ranks = ranks
        self._environment = os.environ | {"OMP_WAIT_POLICY": "passive", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}

    def __call__(self, *arguments, stdout=None):
        launch = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(self._ranks)] if self._ranks > 1 else []
        command = [str(part) for part in (*launch, self._binary, *arguments)]
        outcome = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=stdout, text=True, env=self._environment)
        if outcome.returncode != 0:
            sys.exit(f"{' '.join(command)} failed with {outcome.returncode}")
        return outcome.stdout

    def json(self, *arguments):
        return json.loads(self(*arguments, "--json", stdout=subprocess.PIPE))


def nice_ticks(low, high):
    """1, 2 and 5 times powers of ten within a range of a logarithmic axis."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]


def svg(points, title, y_label):
    """A line through (step, score), the score on a logarithmic axis."""
    steps, scores = zip(*points)
    low, high = min(scores) / 1.2, max(scores) * 1.2
    x = lambda step: LEFT + step / max(steps) * (WIDTH - LEFT - RIGHT)
    y = lambda score: HEIGHT - BOTTOM - math.log(score / low) / math.log(high / low) * (HEIGHT - TOP - BOTTOM)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
             f'<text x="{WIDTH / 2}" y="22" text-anchor="middle" font-size="14">{title}</text>']
    for tick in nice_ticks(low, high):
        parts += [f'<path d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>',
                  f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>']
    for step in steps:
        parts.append(f'<text x="{x(step):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{step}</text>')
    line = " ".join(f"{x(step):.1f},{y(score):.1f}" for step, score in points)
    parts += [f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none" stroke="black"/>',
              f'<polyline points="{line}" fill="none" stroke="#1f77b4" stroke-width="2"/>',
              *(f'<circle cx="{x(step):.1f}" cy="{y(score):.1f}" r="3.5" fill="#1f77b4"/>' for step, score in points),
              f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">step</text>',
              f'<text x="16" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 16 {HEIGHT / 2})">{y_label}</text>', "</svg>"]
    return "\n".join(parts) + "\n"


def table(heads, lines):
    return "\n".join(["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *("| " + " | ".join(line) + " |" for line in lines)])


def figures(report):
    return [f"{report['fashion_fid']:.2f}", f"{report['fashion_kid']:.4f}", f"{report['fashion_is']:.2f}"]


def prepare(program, folder):
    for name, subset in (("train", "train"), ("heldout", "test")):
        if not (folder / name / "manifest.json").exists():
            program("prepare", IMAGES, "--subset", subset, "--output", folder / name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=Path("build/cpu"), help="build folder, with perrin")
    parser.add_argument("--folder", type=Path, required=True, help="for the datasets and the run")
    parser.add_argument("--output", type=Path, required=True, metavar="PREFIX", help="of the picture and the tables")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1800, help="of the training")
    parser.add_argument("--scores", type=int, default=9, help="inside the training, the last at its end")
    parser.add_argument("--samples", type=int, default=500, help="of one score")
    parser.add_argument("--sampling-steps", type=int, default=50, help="of DDIM with eta 1")
    arguments = parser.parse_args()

    program = Program(arguments.build, arguments.ranks)
    prepare(program, arguments.folder)
    run = arguments.folder / "run"
    every = max(arguments.steps // arguments.scores, 1)
    program("train", "configs/quickstart.toml", f"--run.directory={run}", f"--data.train={arguments.folder / 'train'}",
            f"--data.heldout={arguments.folder / 'heldout'}", f"--train.steps={arguments.steps}", "--train.max_minutes=0",
            "--train.evaluate_every=0", "--train.sample_every=0", "--ema.power_sigmas=[0.05, 0.1]",
            f"--ema.snapshot_every={max(every // 4, 1)}", f"--evaluate.samples={arguments.samples}", f"--evaluate.samples_every={every}",
            f"--sample.steps={arguments.sampling_steps}", f"--checkpoint.every={every}")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    curve = [row for row in rows if row["kind"] == "samples"]
    seconds = max(row["seconds"] for row in rows if row["kind"] == "train")

    ends = []
    for weights in ("raw", "ema", "ema-1", "ema-2", *(f"posthoc-{width}" for width in POSTHOC)):
        ends.append((weights, program.json("evaluate", run, "--weights", weights, "--samples", arguments.samples,
                                           "--output", arguments.folder / weights)))
    first, last = curve[0], curve[-1]
    drawn = f"n = {last['n']}, {last['sampler']} in {last['steps']} steps"
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.with_suffix(".svg").write_text(
        svg([(row["step"], row["fashion_fid"]) for row in curve], f"fashion_fid during a training ({drawn})", "fashion_fid"))
    heads = ["fashion_fid", "fashion_kid", "fashion_is"]
    text = "\n".join([
        f"`configs/quickstart.toml` for {arguments.steps} steps on {arguments.ranks} ranks: {seconds / 60:.1f} minutes with its {len(curve)} scores "
        f"({sum(row['seconds'] for row in curve) / 60:.1f} of them; {drawn}, weights {last['weights']}, reference: the training set).", "",
        table(["step", *heads], [[str(row["step"]), *figures(row)] for row in curve]), "",
        f"The weights of the last step, on the same noise ({drawn}):", "",
        table(["weights", "are", *heads], [[f"`{name}`", report["weights"], *figures(report)] for name, report in ends]), ""])
    arguments.output.with_suffix(".md").write_text(text)
    print(text)
    print(f"fashion_fid {first['fashion_fid']:.2f} at step {first['step']} -> {last['fashion_fid']:.2f} at step {last['step']}")


if __name__ == "__main__":
    main()
