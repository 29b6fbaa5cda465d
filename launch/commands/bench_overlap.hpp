#pragma once

#include <CLI/CLI.hpp>
#include <functional>

#include "launch/exit_code.hpp"
#include "launch/session.hpp"

namespace perrin::launch {

/// Adds `bench overlap`. @return what it does once its options are read
std::function<ExitCode(Session&)> add_bench_overlap(CLI::App& bench);

}  // namespace perrin::launch
