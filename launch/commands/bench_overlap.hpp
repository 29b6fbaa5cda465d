#pragma once

#include "launch/commands/command.hpp"

namespace perrin::launch {

/// Adds `bench overlap`.
Command add_bench_overlap(CLI::App& bench);

}  // namespace perrin::launch
