"""Dependencies of perrin's folders point one way; and the checks themselves find what is planted against it."""

import subprocess

import pytest

import dependencies


def plant(root, files):
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def link_graph(source, build, *options):
    dot = build.parent / f"{build.name}.dot"
    configured = subprocess.run(["cmake", "-B", build, f"--graphviz={dot}", *options], cwd=source, capture_output=True, text=True)
    assert configured.returncode == 0, configured.stderr
    return dot.read_text()


def test_no_file_includes_what_its_folder_may_not_know(source_dir):
    for folder in ("comm", "data", "trainer", "launch"):
        assert list((source_dir / folder).rglob("*.hpp")), folder
    assert dependencies.include_violations(source_dir) == []


def test_no_library_links_what_its_folder_may_not_know(source_dir, build_dir, tmp_path):
    preset = "cuda" if build_dir.name == "cuda" else "cpu"
    graph = link_graph(source_dir, tmp_path / "build", "--preset", preset, "-DPERRIN_TESTS=OFF")
    edges = dependencies.link_edges(graph)
    # The graph is the real one: the arrows that must be there are.
    assert {"perrin_comm", "perrin_data"} <= set(edges["perrin_trainer"])
    assert "perrin_trainer" in dependencies.reachable("perrin_launch", edges)
    assert any(dependencies.FOREIGN_LIBRARIES["LibTorch"].search(name) for name in dependencies.reachable("perrin_trainer", edges))
    assert dependencies.link_violations(graph) == []


@pytest.mark.parametrize("files, expected", [
    ({"comm/world.cpp": "#include <torch/torch.h>\n"}, "comm/world.cpp -> torch/torch.h: comm/world.cpp may not see LibTorch"),
    ({"data/shard.hpp": "  #  include <ATen/ATen.h>\n"}, "data/shard.hpp -> ATen/ATen.h: data/shard.hpp may not see LibTorch"),
    ({"data/order.cpp": '#include "trainer/config.hpp"\n', "trainer/config.hpp": ""},
     "data/order.cpp -> trainer/config.hpp: data may not include trainer"),
    ({"data/order.cpp": '#include "comm/world.hpp"\n', "comm/world.hpp": ""}, "data/order.cpp -> comm/world.hpp: data may not include comm"),
    ({"comm/world.cpp": '#include "data/file.hpp"\n', "data/file.hpp": ""}, "comm/world.cpp -> data/file.hpp: comm may not include data"),
    ({"trainer/loop.cpp": '#include "launch/exit_code.hpp"\n', "launch/exit_code.hpp": ""},
     "trainer/loop.cpp -> launch/exit_code.hpp: trainer may not include launch"),
    ({"launch/config.cpp": '#include "trainer/model/unet.hpp"\n', "trainer/model/unet.hpp": "#include <torch/nn.h>\n"},
     "launch/config.cpp -> trainer/model/unet.hpp -> torch/nn.h: launch/config.cpp may not see LibTorch"),
    ({"data/reader.cpp": "#include <mpi.h>\n"}, "data/reader.cpp -> mpi.h: data/reader.cpp may not see MPI"),
    ({"trainer/kernels/norm.cu": "#include <c10/util/Half.h>\n"},
     "trainer/kernels/norm.cu -> c10/util/Half.h: trainer/kernels/norm.cu may not see LibTorch"),
], ids=lambda value: value.split(":")[0] if isinstance(value, str) else "")
def test_planted_include_is_found(tmp_path, files, expected):
    plant(tmp_path, files)
    assert expected in dependencies.include_violations(tmp_path)


def test_planted_include_is_found_behind_two_harmless_headers(tmp_path):
    plant(tmp_path, {
        "comm/world.cpp": '#include "comm/world.hpp"\n',
        "comm/world.hpp": '#include "names.hpp"\n',  # written relative to its own folder
        "comm/names.hpp": '#include <data/file.hpp>\n',
        "data/file.hpp": "",
    })
    assert "comm/world.cpp -> comm/world.hpp -> comm/names.hpp -> data/file.hpp: comm may not include data" in \
        dependencies.include_violations(tmp_path)


def test_allowed_includes_are_not_reported(tmp_path):
    plant(tmp_path, {
        "launch/train.cpp": '#include "trainer/loop.hpp"\n#include "comm/world.hpp"\n#include "data/file.hpp"\n',
        "trainer/loop.hpp": '#include <torch/torch.h>\n#include "comm/world.hpp"\n#include "data/file.hpp"\n',
        "comm/world.hpp": "#include <mpi.h>\n#include <nccl.h>\n// #include \"trainer/loop.hpp\" in a comment\n",
        "data/file.hpp": "#include <hdf5.h>\n",
    })
    assert dependencies.include_violations(tmp_path) == []


@pytest.mark.parametrize("link, expected", [
    ("target_link_libraries(perrin_comm INTERFACE LibTorch::LibTorch)", "perrin_comm -> LibTorch::LibTorch: comm may not link LibTorch"),
    ("target_link_libraries(perrin_data INTERFACE perrin_warnings)\ntarget_link_libraries(perrin_warnings INTERFACE /opt/lib/libtorch_cpu.so)",
     "perrin_data -> perrin_warnings -> /opt/lib/libtorch_cpu.so: data may not link LibTorch"),
    ("target_link_libraries(perrin_data INTERFACE perrin_comm)", "perrin_data -> perrin_comm: data may not link comm"),
    ("target_link_libraries(perrin_comm INTERFACE perrin_trainer)", "perrin_comm -> perrin_trainer: comm may not link trainer"),
    ("target_link_libraries(perrin_trainer INTERFACE perrin_launch)", "perrin_trainer -> perrin_launch: trainer may not link launch"),
    ("target_link_libraries(perrin_data INTERFACE MPI::MPI_CXX)", "perrin_data -> MPI::MPI_CXX: data may not link MPI"),
])
def test_planted_link_is_found(tmp_path, link, expected):
    plant(tmp_path, {"CMakeLists.txt": f"""
        cmake_minimum_required(VERSION 3.25)
        project(planted LANGUAGES NONE)
        foreach(name IN ITEMS perrin_comm perrin_data perrin_trainer perrin_launch perrin_warnings)
          add_library(${{name}} INTERFACE)
        endforeach()
        add_library(LibTorch::LibTorch INTERFACE IMPORTED)
        add_library(MPI::MPI_CXX INTERFACE IMPORTED)
        {link}
    """})
    assert expected in dependencies.link_violations(link_graph(tmp_path, tmp_path / "build"))
