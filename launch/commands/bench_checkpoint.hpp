#pragma once

#include "launch/commands/command.hpp"

namespace perrin::launch {

/// Adds `bench checkpoint`.
Command add_bench_checkpoint(CLI::App& bench);

}  // namespace perrin::launch
