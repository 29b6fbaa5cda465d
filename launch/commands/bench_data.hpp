#pragma once

#include "launch/commands/command.hpp"

namespace perrin::launch {

/// Adds `bench data`.
Command add_bench_data(CLI::App& bench);

}  // namespace perrin::launch
