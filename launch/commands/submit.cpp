#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "launch/commands/command.hpp"
#include "launch/config/check.hpp"
#include "launch/config/read.hpp"
#include "launch/train_script.hpp"
#include "launch/usage_error.hpp"

namespace perrin::launch {
namespace {

struct SubmitArguments {
  std::filesystem::path config;
  std::vector<Override> overrides;
  int nodes = 1;
  int gpus_per_node = 0;
  int ranks_per_node = 0;  ///< 0: one a GPU
  int cpus_per_rank = 0;   ///< 0: as train.sbatch has it
  std::string time, partition, account;
};

/// Options of sbatch by name, without the dashes.
using Directives = std::vector<std::pair<std::string, std::string>>;

/// As one word of a shell.
std::string shell_word(std::string_view text) {
  std::string word = "'";
  for (const char c : text) word += c == '\'' ? "'\\''" : std::string(1, c);
  return word + "'";
}

Directives directives_of(const SubmitArguments& arguments, int ranks_per_node) {
  Directives directives = {{"job-name", "perrin-" + arguments.config.stem().string()},
                           {"nodes", std::to_string(arguments.nodes)},
                           {"ntasks-per-node", std::to_string(ranks_per_node)}};
  if (arguments.cpus_per_rank > 0) directives.emplace_back("cpus-per-task", std::to_string(arguments.cpus_per_rank));
  if (arguments.gpus_per_node > 0) directives.emplace_back("gpus-per-node", std::to_string(arguments.gpus_per_node));
  if (!arguments.time.empty()) directives.emplace_back("time", arguments.time);
  if (!arguments.partition.empty()) directives.emplace_back("partition", arguments.partition);
  if (!arguments.account.empty()) directives.emplace_back("account", arguments.account);
  for (const auto& [name, value] : directives)
    if (value.find_first_of(" \t\n#'\"") != std::string::npos)
      throw UsageError(fmt::format("'{}' cannot stand in a line of #SBATCH (--{})", value, name));
  return directives;
}

/// The `set --` line that makes the configuration and its overrides the arguments of the script, before its own.
std::string arguments_line(const SubmitArguments& arguments) {
  std::string line = "set -- " + shell_word(arguments.config.string());
  for (const Override& override : arguments.overrides)
    line += " " + shell_word("--" + override.name + "=" + override.value);
  return line + " \"$@\"\n";
}

/// train.sbatch with these directives in the place of its own, others behind them, and the lines of `prologue` before
/// its first command that looks at anything.
std::string batch_script(Directives directives, const std::string& prologue) {
  std::istringstream lines{std::string(kTrainScript)};
  std::string text, line;
  while (std::getline(lines, line)) {
    for (auto directive = directives.begin(); directive != directives.end(); ++directive) {
      const std::string begin = "#SBATCH --" + directive->first + "=";
      if (!line.starts_with(begin)) continue;
      line = begin + directive->second;
      directives.erase(directive);
      break;
    }
    if (line == "set -euo pipefail") {  // what train.sbatch has no line for
      for (const auto& [name, value] : directives) text += "#SBATCH --" + name + "=" + value + "\n";
      line += "\n" + prologue;
    } else {
      line += "\n";
    }
    text += line;
  }
  return text;
}

ExitCode submit(const SubmitArguments& arguments, const Session& session) {
  if (session.size() > 1) throw UsageError("submit is the work of one process; start it without mpirun");
  const int ranks_per_node = arguments.ranks_per_node > 0 ? arguments.ranks_per_node : arguments.gpus_per_node;
  if (ranks_per_node == 0) throw UsageError("how many ranks has a node? Give --gpus-per-node or --ranks-per-node");
  if (arguments.gpus_per_node > 0 && ranks_per_node > arguments.gpus_per_node)
    throw UsageError(fmt::format("{} ranks on {} GPUs: a GPU serves one rank; lower --ranks-per-node", ranks_per_node,
                                 arguments.gpus_per_node));
  const trainer::Config config = read_config(arguments.config, arguments.overrides);
  check_ranks(config, arguments.nodes * ranks_per_node, [&](std::string_view) { return arguments.config.string(); });
  const std::string program = std::filesystem::read_symlink("/proc/self/exe").string();
  fmt::print("{}", batch_script(directives_of(arguments, ranks_per_node),
                                ": \"${PERRIN_BINARY:=" + program + "}\"\n" + arguments_line(arguments)));
  return ExitCode::ok;
}

}  // namespace

Command submit_command(CLI::App& program, const std::vector<Override>& overrides) {
  CLI::App* app = program.add_subcommand("submit", "Print the Slurm batch script of a training");
  const auto arguments = std::make_shared<SubmitArguments>();
  arguments->overrides = overrides;
  app->add_option("CONFIG", arguments->config, "TOML file of the run")->required()->type_name("FILE");
  const auto positive = CLI::Range(1, 100'000).description("");
  app->add_option("--nodes", arguments->nodes, "Nodes of the job")
      ->check(positive)
      ->type_name("N")
      ->capture_default_str();
  app->add_option("--gpus-per-node", arguments->gpus_per_node, "GPUs of each node; without, the run is on CPUs")
      ->check(positive)
      ->type_name("N");
  app->add_option("--ranks-per-node", arguments->ranks_per_node, "Ranks of each node (default: one a GPU)")
      ->check(positive)
      ->type_name("N");
  app->add_option("--cpus-per-rank", arguments->cpus_per_rank, "Cores of each rank (default: as slurm/train.sbatch)")
      ->check(positive)
      ->type_name("N");
  app->add_option("--time", arguments->time, "Time limit, as Slurm writes it; the job requeues itself before it ends")
      ->type_name("D-HH:MM");
  app->add_option("--partition", arguments->partition, "Partition of the cluster")->type_name("NAME");
  app->add_option("--account", arguments->account, "Account that pays")->type_name("NAME");
  app->footer(
      "The script is slurm/train.sbatch with these sizes; nothing is submitted. Paths in the configuration are "
      "relative "
      "to\n"
      "where sbatch is called. Any key may be overridden: --section.key=value. Refused is what these ranks cannot "
      "train; "
      "\n"
      "`perrin train CONFIG --dry-run` looks at the datasets too.\n"
      "\n"
      "Examples:\n"
      "  perrin submit configs/ddpm-cifar10.toml --nodes 4 --gpus-per-node 8 --time 2-0 > job.sbatch && sbatch "
      "job.sbatch\n"
      "  perrin submit configs/quickstart.toml --ranks-per-node 2 --partition short --train.steps=3000 | sbatch\n");
  return {app, [arguments](Session& session) { return submit(*arguments, session); }};
}

}  // namespace perrin::launch
