#include "launch/program.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>

#include "launch/commands/command.hpp"
#include "launch/config/nearest_name.hpp"
#include "launch/usage_error.hpp"
#include "launch/versions.hpp"

namespace perrin::launch {
namespace {

std::string exit_code_table() {
  std::string text = "Exit codes:\n";
  for (const auto& [code, meaning] : kExitCodes) text += fmt::format("  {:>3}  {}\n", static_cast<int>(code), meaning);
  return text;
}

void refuse_unknown_command(const std::vector<Command>& commands, const std::vector<std::string>& arguments) {
  if (arguments.empty() || arguments.front().starts_with("-")) return;
  std::vector<std::string> names;
  for (const Command& command : commands) names.push_back(command.options->get_name());
  if (std::find(names.begin(), names.end(), arguments.front()) != names.end()) return;
  const std::string nearest = nearest_name(arguments.front(), names);
  throw UsageError("unknown command '" + arguments.front() + "'" +
                   (nearest.empty() ? "; `perrin --help` lists them" : "; did you mean '" + nearest + "'?"));
}

}  // namespace

ExitCode run_program(std::vector<std::string> arguments, Session& session) {
  CLI::App program("Trains denoising diffusion models on many ranks.", "perrin");
  program.set_version_flag(
      "--version", [] { return versions(); }, "Versions of perrin and of the libraries it runs with");
  program.require_subcommand(1);
  program.get_formatter()->column_width(34);
  program.footer("`perrin COMMAND --help` says more and shows an example.\n\n" + exit_code_table());

  std::vector<Override> overrides;
  const bool has_overrides = !arguments.empty() && (arguments.front() == "train" || arguments.front() == "sample" ||
                                                    arguments.front() == "evaluate" || arguments.front() == "plan" ||
                                                    arguments.front() == "submit" || arguments.front() == "import");
  if (has_overrides) overrides = take_overrides(arguments);
  const std::vector<Command> commands = {prepare_command(program),
                                         repack_command(program),
                                         train_command(program, overrides),
                                         evaluate_command(program, overrides),
                                         sample_command(program, overrides),
                                         stats_command(program),
                                         export_command(program),
                                         import_command(program, overrides),
                                         inspect_command(program),
                                         verify_command(program),
                                         bench_command(program),
                                         selftest_command(program),
                                         plan_command(program, overrides),
                                         submit_command(program, overrides)};
  refuse_unknown_command(commands, arguments);
  try {
    std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them from the back
    program.parse(arguments);
  } catch (const CLI::Success& help_or_version) {
    if (session.is_root()) program.exit(help_or_version);
    return ExitCode::ok;
  } catch (const CLI::ParseError& error) {
    const auto parsed = program.get_subcommands();
    throw UsageError(
        fmt::format("{}; see `perrin {}--help`", error.what(), parsed.empty() ? "" : parsed.front()->get_name() + " "));
  }
  for (const Command& command : commands) {
    if (command.options->parsed()) return command.run(session);
  }
  throw UsageError("a command is needed; `perrin --help` lists them");
}

}  // namespace perrin::launch
