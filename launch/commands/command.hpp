#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <vector>

#include "launch/config/read.hpp"
#include "launch/exit_code.hpp"
#include "launch/session.hpp"

namespace perrin::launch {

/// One subcommand: its options, and what it does once they are read.
struct Command {
  CLI::App* options;
  std::function<ExitCode(Session&)> run;
};

// Each adds its options to the program; the values live in the command.
Command prepare_command(CLI::App& program);
Command repack_command(CLI::App& program);
// Overrides are the dotted ones, already taken out of the command line.
Command train_command(CLI::App& program, const std::vector<Override>& overrides);
Command evaluate_command(CLI::App& program, const std::vector<Override>& overrides);
Command sample_command(CLI::App& program, const std::vector<Override>& overrides);
Command plan_command(CLI::App& program, const std::vector<Override>& overrides);
Command submit_command(CLI::App& program, const std::vector<Override>& overrides);
Command stats_command(CLI::App& program);
Command export_command(CLI::App& program);
Command import_command(CLI::App& program, const std::vector<Override>& overrides);
Command inspect_command(CLI::App& program);
Command verify_command(CLI::App& program);
Command bench_command(CLI::App& program);
Command selftest_command(CLI::App& program);

}  // namespace perrin::launch
