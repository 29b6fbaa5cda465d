"""The closing line of tests/run.sh counts what happened: no crash, time-out or silent skip may pass for a success."""

import subprocess

import pytest

import summary


@pytest.fixture
def results(tmp_path):
    """Writes a folder of results as a build leaves them; ctest entries as (name, status, message)."""

    def write(entries, case_files=None):
        cases = "".join(
            f'<testcase name="{name}" classname="{name}" status="{status}">'
            + (f'<{"skipped" if status == "notrun" else "failure"} message="{message}"/>' if message else "")
            + "<system-out>log</system-out></testcase>" for name, status, message in entries)
        (tmp_path / "ctest.junit").write_text(f'<testsuite name="x">{cases}</testsuite>')
        for name, text in (case_files or {}).items():
            (tmp_path / f"{name}.xml").write_text(text)
        return tmp_path

    return write


def googletest(*cases):
    return f'<testsuites><testsuite name="Suite">{"".join(cases)}</testsuite></testsuites>'


PASSED = '<testcase name="Holds" classname="Suite" status="run" result="completed"/>'
FAILED = '<testcase name="Breaks" classname="Suite" status="run" result="completed"><failure message="a.cpp:3&#x0A;1 is not 2"/></testcase>'
SKIPPED = '<testcase name="Waits" classname="Suite" status="run" result="skipped"><skipped message="a.cpp:5&#x0A;no GPU here"/></testcase>'
DISABLED = '<testcase name="DISABLED_Old" classname="Suite" status="notrun" result="suppressed"/>'


def closing(capsys, *arguments):
    status = summary.main([str(argument) for argument in arguments])
    lines = capsys.readouterr().out.splitlines()
    return status, lines[-1], lines


def test_cases_of_googletest_are_counted_one_by_one(results, capsys):
    folder = results([("unit", "fail", "")], {"unit": googletest(PASSED, FAILED, SKIPPED, DISABLED)})
    status, last, lines = closing(capsys, "--ctest", f"cpu={folder}")
    assert (status, last) == (1, "1 passed, 1 failed, 2 skipped")
    assert "skipped: cpu: unit: Suite.Waits: no GPU here" in lines
    assert "skipped: cpu: unit: Suite.DISABLED_Old: disabled in the source" in lines
    assert "failed: cpu: unit: Suite.Breaks: a.cpp:3" in lines


def test_all_passed_is_success(results, capsys):
    folder = results([("unit", "run", ""), ("script", "run", "")], {"unit": googletest(PASSED)})
    assert closing(capsys, "--ctest", f"cpu={folder}")[:2] == (0, "2 passed, 0 failed, 0 skipped")


def test_entry_that_crashed_without_results_is_one_failure(results, capsys):
    folder = results([("unit", "run", ""), ("mpi.np4", "fail", "Timeout")], {"unit": googletest(PASSED)})
    status, last, lines = closing(capsys, "--ctest", f"cpu={folder}")
    assert (status, last) == (1, "1 passed, 1 failed, 0 skipped")
    assert "failed: cpu: mpi.np4: Timeout" in lines


def test_process_that_fails_after_its_cases_passed_is_a_failure(results, capsys):
    folder = results([("unit", "fail", "SEGFAULT")], {"unit": googletest(PASSED)})
    assert closing(capsys, "--ctest", f"cpu={folder}")[:2] == (1, "1 passed, 1 failed, 0 skipped")


def test_results_cut_short_are_a_failure(results, capsys):
    folder = results([("unit", "run", "")], {"unit": googletest(PASSED)[:-20]})
    assert closing(capsys, "--ctest", f"cpu={folder}")[:2] == (1, "0 passed, 1 failed, 0 skipped")


def test_program_that_was_not_built_is_a_failure_and_a_stated_skip_is_not(results, capsys):
    folder = results([("missing", "notrun", "Unable to find executable"), ("asked", "notrun", "SKIP_RETURN_CODE=77"),
                      ("fine", "run", "")])
    assert closing(capsys, "--ctest", f"cpu={folder}")[:2] == (1, "1 passed, 1 failed, 1 skipped")


def test_every_way_in_which_ctest_itself_ends_an_entry_is_understood(tmp_path, capsys):
    (tmp_path / "CMakeLists.txt").write_text("""
        cmake_minimum_required(VERSION 3.25)
        project(ways LANGUAGES NONE)
        enable_testing()
        add_test(NAME passes COMMAND ${CMAKE_COMMAND} -E true)
        add_test(NAME fails COMMAND ${CMAKE_COMMAND} -E false)
        add_test(NAME hangs COMMAND ${CMAKE_COMMAND} -E sleep 30)
        set_tests_properties(hangs PROPERTIES TIMEOUT 1)
        add_test(NAME crashes COMMAND sh -c "kill -SEGV $$")
        add_test(NAME was_not_built COMMAND ${CMAKE_BINARY_DIR}/nothing_here)
        add_test(NAME skips COMMAND sh -c "echo no GPU here; exit 77")
        set_tests_properties(skips PROPERTIES SKIP_RETURN_CODE 77)
        add_test(NAME off COMMAND ${CMAKE_COMMAND} -E true)
        set_tests_properties(off PROPERTIES DISABLED ON)
    """)
    subprocess.run(["cmake", "-B", tmp_path / "build", tmp_path], check=True, capture_output=True)
    subprocess.run(["ctest", "--test-dir", tmp_path / "build", "--output-junit", tmp_path / "ctest.junit"], capture_output=True)
    status, last, lines = closing(capsys, "--ctest", f"cpu={tmp_path}")
    assert last == "1 passed, 4 failed, 2 skipped", lines
    assert "skipped: cpu: skips: no GPU here" in lines
    for name in ("fails", "hangs", "crashes", "was_not_built"):
        assert any(line.startswith(f"failed: cpu: {name}") for line in lines)


def test_pytest_outcomes_are_counted(tmp_path, capsys):
    (tmp_path / "py.xml").write_text(
        '<testsuites><testsuite><testcase classname="tests.a" name="ok"/>'
        '<testcase classname="tests.a" name="bad"><failure message="assert 1 == 2"/></testcase>'
        '<testcase classname="" name="tests.b"><error message="collection failure"/></testcase>'
        '<testcase classname="tests.a" name="later"><skipped message="diffusers is not installed"/></testcase></testsuite></testsuites>')
    status, last, lines = closing(capsys, "--pytest", f"cpu={tmp_path / 'py.xml'}", "--left-out", "tsan: slow")
    assert (status, last) == (1, "1 passed, 2 failed, 1 skipped")
    assert "skipped: cpu: tests.a::later: diffusers is not installed" in lines
    assert "left out (run with --all): tsan: slow" in lines


def test_incident_outside_the_tests_is_a_failure(results, capsys):
    folder = results([("fine", "run", "")])
    assert closing(capsys, "--ctest", f"cpu={folder}", "--incident", "asan: the build failed")[:2] == \
        (1, "1 passed, 1 failed, 0 skipped")


def test_a_suite_that_cannot_run_is_a_skip_with_its_reason(results, capsys):
    folder = results([("fine", "run", "")])
    status, last, lines = closing(capsys, "--ctest", f"cpu={folder}", "--skip", "fuzz: no clang")
    assert (status, last) == (0, "1 passed, 0 failed, 1 skipped")
    assert "skipped: fuzz: no clang" in lines


def test_nothing_passed_is_a_failure(results, capsys):
    assert closing(capsys, "--ctest", f"cpu={results([])}")[:2] == (1, "0 passed, 0 failed, 0 skipped")
