"""Merges the results of ctest, GoogleTest and pytest and closes with the line `N passed, N failed, N skipped`.

Every skip is printed with its reason, every failure by name. GoogleTest cases count one each; an entry of ctest that
left no file of cases (a crash, a time-out, a launch that failed) counts as one itself, and one that failed although
all its cases passed counts as one failure more. Exit status: 0 only if something passed and nothing failed.
"""

import argparse
import dataclasses
import pathlib
import sys
import xml.etree.ElementTree as ElementTree

# What ctest says of an entry that a SKIP_RETURN_CODE or SKIP_REGULAR_EXPRESSION skipped; any other "notrun" is a failure.
CTEST_SKIPS = ("SKIP_RETURN_CODE", "SKIP_REGULAR_EXPRESSION")


@dataclasses.dataclass
class Case:
    name: str
    outcome: str  # passed, failed or skipped
    reason: str = ""


def first_line(text):
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return lines[0] if lines else ""


def googletest_cases(xml_path, prefix):
    """The cases of one GoogleTest XML file; raises ParseError for a file cut short."""
    cases = []
    for element in ElementTree.parse(xml_path).getroot().iter("testcase"):
        name = f"{prefix}: {element.get('classname')}.{element.get('name')}"
        failure = element.find("failure")
        skipped = element.find("skipped")
        if failure is not None:
            cases.append(Case(name, "failed", first_line(failure.get("message"))))
        elif skipped is not None:
            message = [line for line in (skipped.get("message") or "").splitlines() if line.strip()]
            # GoogleTest 1.12 begins the message with "file:line"; what was streamed follows.
            cases.append(Case(name, "skipped", " ".join(line.strip() for line in message[-1:]) or "no reason given"))
        elif element.get("status") == "notrun":
            cases.append(Case(name, "skipped", "disabled in the source"))
        else:
            cases.append(Case(name, "passed"))
    return cases


def ctest_outcome(element):
    """(outcome, reason) of one testcase element of ctest's own JUnit file."""
    status = element.get("status")
    if status == "run":
        return "passed", ""
    if status == "disabled":
        return "skipped", "disabled in CMake"
    detail = next((child.get("message") for child in element if child.tag in ("failure", "skipped")), "") or status
    if status == "notrun" and detail.startswith(CTEST_SKIPS):
        return "skipped", first_line(element.findtext("system-out")) or detail
    return "failed", detail


def ctest_cases(label, folder):
    """All cases of one build: those in the GoogleTest files, and the entries of ctest that left none."""
    cases = []
    report = folder / "ctest.junit"
    if not report.exists():
        return cases
    for element in ElementTree.parse(report).getroot().iter("testcase"):
        entry = f"{label}: {element.get('name')}"
        outcome, reason = ctest_outcome(element)
        of_entry = []
        xml_path = folder / f"{element.get('name')}.xml"
        if xml_path.exists():
            try:
                of_entry = googletest_cases(xml_path, entry)
            except ElementTree.ParseError:
                outcome, reason = "failed", f"its results file is cut short ({xml_path})"
        if not of_entry:
            of_entry = [Case(entry, outcome, reason)]
        elif outcome == "failed" and not any(case.outcome == "failed" for case in of_entry):
            of_entry.append(Case(entry, "failed", f"no case failed, but the process did: {reason}"))
        cases += of_entry
    return cases


def pytest_cases(label, xml_path):
    cases = []
    for element in ElementTree.parse(xml_path).getroot().iter("testcase"):
        name = f"{label}: {element.get('classname') or ''}::{element.get('name')}"
        outcomes = {child.tag: child for child in element}
        if "failure" in outcomes or "error" in outcomes:
            child = outcomes.get("failure", outcomes.get("error"))
            cases.append(Case(name, "failed", first_line(child.get("message"))))
        elif "skipped" in outcomes:
            cases.append(Case(name, "skipped", first_line(outcomes["skipped"].get("message")) or "no reason given"))
        else:
            cases.append(Case(name, "passed"))
    return cases


def labelled_path(text):
    label, _, path = text.partition("=")
    return label, pathlib.Path(path)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ctest", action="append", default=[], type=labelled_path, metavar="LABEL=FOLDER")
    parser.add_argument("--pytest", action="append", default=[], type=labelled_path, metavar="LABEL=FILE")
    parser.add_argument("--incident", action="append", default=[], help="a failure outside any test")
    parser.add_argument("--skip", action="append", default=[], metavar="SUITE: REASON", help="a suite that cannot run here")
    parser.add_argument("--left-out", action="append", default=[], help="a suite that the default run leaves out")
    options = parser.parse_args(arguments)

    cases = []
    for label, folder in options.ctest:
        cases += ctest_cases(label, folder)
    for label, xml_path in options.pytest:
        cases += pytest_cases(label, xml_path)
    cases += [Case(incident, "failed") for incident in options.incident]
    for suite, _, reason in (skip.partition(": ") for skip in options.skip):
        cases.append(Case(suite, "skipped", reason))

    print("== summary")
    for suite in options.left_out:
        print(f"left out (run with --all): {suite}")
    for outcome in ("skipped", "failed"):
        for case in cases:
            if case.outcome == outcome:
                print(f"{outcome}: {case.name}" + (f": {case.reason}" if case.reason else ""))
    count = {outcome: sum(case.outcome == outcome for case in cases) for outcome in ("passed", "failed", "skipped")}
    if count["passed"] == 0:
        print("nothing passed: that is a failure of the run")
    print(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    return 0 if count["passed"] > 0 and count["failed"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
