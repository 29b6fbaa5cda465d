"""What bench/compare.py says: a table for people, or one JSON object a line."""

import json
import statistics
import sys


class Report:
    def __init__(self, as_json):
        self.as_json, self.skipped, self.left_out_of_rounds = as_json, [], []

    def say(self, text):
        print(text, file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def skip(self, what, why):
        self.skipped.append(what)
        self.say(f"  skipped: {what}: {why}")

    def row(self, **row):
        if self.as_json:
            print(json.dumps(row), flush=True)

    def values(self, section, network, unit, values):
        """@param unit  a word, as it stands in JSON   @param values  {name: [figure of each round]}"""
        for name, rounds in values.items():
            median, lowest, highest = statistics.median(rounds), min(rounds), max(rounds)
            self.row(section=section, network=network, name=name, **{unit: median, f"{unit}_lowest": lowest, f"{unit}_highest": highest}, rounds=len(rounds))
            if not self.as_json:
                print(f"  {name:<28}{median:>10.4g} {unit.replace('_', ' ')} ({lowest:.4g} to {highest:.4g})", flush=True)

    def left_out(self, section, network, name, figure, why, at_most=False):
        """A mode that has one figure only, or a bound of it, and takes no part in the rounds."""
        self.left_out_of_rounds.append(name)
        unit = "images_per_second_at_most" if at_most else "images_per_second"
        self.row(section=section, network=network, name=name, **{unit: figure}, rounds=0, left_out=why)
        self.say(f"  {name}: {unit.replace('_', ' ')} {figure:.3g}: left out of the rounds, {why}")

    def ratios(self, section, network, ratios):
        self.row(section=section, network=network, **ratios)
        for name, value in ratios.items() if not self.as_json else ():
            print(f"  {name:<48}{value:>7.2f}", flush=True)

    def end(self):
        for what, names in (("skipped", self.skipped), ("left out of the rounds", self.left_out_of_rounds)):
            self.say(f"{len(names)} {what}{': ' if names else ''}{', '.join(names)}")
