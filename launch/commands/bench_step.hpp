#pragma once

#include "launch/commands/command.hpp"

namespace perrin::launch {

/// Adds `bench step`.
Command add_bench_step(CLI::App& bench);

}  // namespace perrin::launch
