#pragma once

#include "launch/commands/command.hpp"

namespace perrin::launch {

/// Adds `bench operators`.
Command add_bench_operators(CLI::App& bench);

}  // namespace perrin::launch
