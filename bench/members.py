"""Who takes part in a comparison: perrin and its peers, each tried by a step, all doing the same work."""

import shutil
import statistics
import sys

from turns import MemberFailed, Peer, Program, TooSlow, take_turns

NETWORKS = {"small": {"shape": (1, 28, 28), "batch": 64, "steps": 4}, "ddpm-cifar10": {"shape": (3, 32, 32), "batch": 8, "steps": 2}}
PRECISIONS = ("fp32", "bf16")
FORMATS = ("nchw", "nhwc")
CHECKED_STEPS = 20
LOSS_TOLERANCE = 0.05  # of the mean of 20 losses, whose noise differs: t and eps are other draws
HOPELESS = 0.5  # of the fastest of its kind so far
START_SECONDS, PROGRAM_START_SECONDS = 300, 20  # to import PyTorch and diffusers, and for perrin to begin, on a busy machine
PATIENCE, SHORTEST_PATIENCE = 8, 10  # times the fastest, and seconds; who is slower is not waited for
LONGEST_TRIAL = 900  # seconds; of the first of its kind, or with its compilation


class Members:
    """Of one section on one network."""

    def __init__(self, arguments, report, folder, section, network, deadline):
        self.arguments, self.report, self.folder, self.section, self.network, self.deadline = arguments, report, folder, section, network, deadline
        self.setting = NETWORKS[network]
        self.members, self.trials, self.fastest = {}, {}, {}

    def threads(self, ranks):
        """Of each of them."""
        return max(1, self.arguments.threads // ranks)

    def perrin(self, command, options, turn=lambda _: [], figure="images_per_second", ranks=1, rounds=1):
        fixed = ["--rounds", rounds, f"--distributed.threads={self.threads(ranks)}", "--distributed.device=cpu"]
        return Program(self.arguments.build / "launch/perrin", [command, self.network, *fixed, *options], figure, turn, ranks)

    def perrin_step(self, options, ranks=1):
        return self.perrin("step", options, lambda steps: ["--warm-up", 2, "--steps", steps], ranks=ranks)

    def task(self, kind, precision="fp32", memory_format="nchw", how="eager", ranks=1, **more):
        return {"kind": kind, "folder": str(self.folder / "initial"), "shape": self.setting["shape"], "batch": self.setting["batch"],
                "precision": precision, "format": memory_format, "how": how, "ranks": ranks, "threads": self.threads(ranks), **more}

    def limit(self, kind, share):
        """Seconds after which a trial of `share` of a batch has lost."""
        return max(SHORTEST_PATIENCE, PATIENCE * share * self.setting["batch"] / self.fastest[kind]) if kind in self.fastest else 0

    def admit(self, name, kind, value):
        """Whether a mode is fast enough for the rounds."""
        fastest = self.fastest.get(kind, 0)
        if value < HOPELESS * fastest:
            self.report.left_out(self.section, self.network, name, value, f"less than half of {fastest:.3g}, the fastest {kind} so far")
            return False
        self.fastest[kind] = max(value, fastest)
        self.trials[name] = value
        return True

    def try_perrin(self, name, program, trial, share=1.0):
        """perrin in one way, tried by a short run of `share` of a batch. @return whether it takes part"""
        limit = self.limit("perrin", 2 * share)  # it warms up by as much
        try:
            report = program.run(*trial, limit=PROGRAM_START_SECONDS + limit if limit else LONGEST_TRIAL)
        except TooSlow:
            self.too_slow(name, 2 * share, limit)
            return False
        if not self.admit(name, "perrin", report["images_per_second"] * share):
            return False
        self.members[name] = program
        return True

    def too_slow(self, name, share, limit):
        bound = share * self.setting["batch"] / limit
        self.report.left_out(self.section, self.network, name, bound, f"its first trial was not over after {limit:.0f} s", at_most=True)

    def start(self, name, task, kind=None, share=1.0):
        """A peer that has done its first step and is worth its rounds. @param kind  whom its trial is compared with; None: there is none"""
        compiled = task["how"] == "compiled"
        limit = self.limit(kind, share)
        peer, loaded = Peer(task), False
        try:
            self.check_parameters(name, peer.ask("load", limit=START_SECONDS))
            loaded = True
            first = peer.ask("first", limit=LONGEST_TRIAL if compiled or not limit else limit)
            if compiled:
                self.report.say(f"  {name}: compiled in {first['seconds']:.0f} s")
            if kind is None:
                return peer
            # The first step also sets everything up; one that takes four times as long as others need not be repeated.
            hopeless = not compiled and kind in self.fastest and first["value"] < self.fastest[kind] / 4
            trial = first if hopeless else peer.ask("trial", limit=limit or LONGEST_TRIAL)
            if "chosen" in trial:
                self.report.say(f"  {name}: {trial['chosen']}")
        except TooSlow as failure:
            if compiled or not limit or not loaded:
                self.report.skip(name, failure)
            else:
                self.too_slow(name, share, limit)
            return None
        except MemberFailed as failure:
            self.report.skip(name, failure)
            return None
        if self.admit(name, kind, max(first["value"], trial["value"])):
            return peer
        peer.close()
        return None

    def join(self, name, task, **how):
        """Starts a peer that takes part where it can. @return whether it does"""
        peer = self.start(name, task, **how)
        if peer:
            self.members[name] = peer
        return peer is not None

    def keep_fastest(self, names):
        """The fastest of those that take part stays. @return its name, or None"""
        best = max(names, key=self.trials.get, default=None)
        for name in names:
            if name != best:
                self.report.say(f"  {name}: {self.trials.pop(name):.3g} images/s in its trial; {best} is faster and takes part")
                self.members.pop(name).close()
        return best

    def join_better_format(self, kind, prefix, task, suffix="", **how):
        """The faster memory format takes part. @return it, or None"""
        names = {f"{prefix}-{memory_format}{suffix}": memory_format for memory_format in FORMATS}
        best = self.keep_fastest([name for name, memory_format in names.items() if self.join(name, task | {"format": memory_format}, kind=kind, **how)])
        return names.get(best)

    def join_compiled(self, kind, formats, task, **how):
        """torch.compile in the better format of each precision."""
        for precision in PRECISIONS:
            name = f"compiled-{precision}"
            if self.arguments.no_compile or self.arguments.quick:
                self.report.skip(name, "--no-compile" if self.arguments.no_compile else "--quick")
            elif shutil.which("g++") is None:
                self.report.skip(name, "torch.compile needs g++, which is not here")
            elif precision not in formats:
                self.report.skip(name, f"diffusers in {precision} takes no part in the rounds, and compiling takes minutes")
            else:
                self.join(f"{name}-{formats[precision]}", task | {"precision": precision, "format": formats[precision], "how": "compiled"}, kind=kind, **how)

    # Equal work

    def export(self):
        """Leaves the initial weights for the peers. @return perrin's report of the first steps in fp32"""
        steps = CHECKED_STEPS if self.section == "step" else 1
        self.reference = self.perrin_step(["--train.precision=fp32"]).run("--warm-up", steps, "--steps", 1, "--losses", "--output", self.folder / "initial")
        return self.reference

    def check_parameters(self, name, said):
        if said["parameters"] != self.reference["parameters"]:
            sys.exit(f"{name} has {said['parameters']} parameters, perrin {self.reference['parameters']}")

    def check_losses(self, name, ours, peer):
        """@param ours  losses of perrin in the peer's precision"""
        theirs, ours = peer.ask("losses", CHECKED_STEPS)["losses"], ours[:CHECKED_STEPS]
        whole, end = ((statistics.mean(ours[part]), statistics.mean(theirs[part])) for part in (slice(0, None), slice(-5, None)))
        self.report.say(f"  mean loss of {CHECKED_STEPS} steps: perrin {whole[0]:.4f}, {name} {whole[1]:.4f}; of the last 5: {end[0]:.4f}, {end[1]:.4f}")
        if abs(whole[0] - whole[1]) > LOSS_TOLERANCE * whole[1]:
            sys.exit(f"perrin and {name} do not do the same work: the losses differ by more than {LOSS_TOLERANCE:.0%}")

    # Turns

    def fastest_of(self, names):
        return max(names, key=self.trials.get)

    def turns(self, steps):
        return take_turns(self.members, self.arguments.rounds, steps, self.deadline, self.report)

    def values(self, steps):
        return {name: [answer["value"] for answer in rounds] for name, rounds in self.turns(steps).items()}

    def close(self):
        for member in self.members.values():
            member.close()
