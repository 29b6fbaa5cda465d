#pragma once

#include "launch/commands/command.hpp"

namespace perrin::launch {

/// Adds `bench sample`.
Command add_bench_sample(CLI::App& bench);

}  // namespace perrin::launch
