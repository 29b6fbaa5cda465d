"""What `cmake --install` leaves works from anywhere, and nothing is built inside the sources."""

import shutil


def test_the_installed_program_runs_without_the_build_or_its_environment(run_command, build_dir, tmp_path):
    run_command(["cmake", "--install", build_dir, "--prefix", tmp_path / "prefix"])
    outcome = run_command([tmp_path / "prefix" / "bin" / "perrin", "--version"], cwd="/", env={"LD_LIBRARY_PATH": None, "PYTHONPATH": None})
    assert outcome.stdout.startswith("perrin ") and "LibTorch" in outcome.stdout


def test_a_build_inside_the_source_folder_is_refused_with_the_right_command(run_command, source_dir, tmp_path):
    for name in ("CMakeLists.txt", "CMakePresets.json", "cmake"):
        copy = shutil.copytree if (source_dir / name).is_dir() else shutil.copy
        copy(source_dir / name, tmp_path / name)
    outcome = run_command(["cmake", "-S", tmp_path, "-B", tmp_path], check=False)
    assert outcome.returncode != 0
    assert "cmake --preset cpu" in outcome.stderr
