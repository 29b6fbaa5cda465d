#pragma once

#include "launch/commands/command.hpp"

namespace perrin::launch {

/// Adds `bench optimizer`.
Command add_bench_optimizer(CLI::App& bench);

}  // namespace perrin::launch
