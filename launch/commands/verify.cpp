#include "data/verify.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "data/manifest.hpp"
#include "launch/commands/command.hpp"
#include "launch/work_progress.hpp"
#include "trainer/checkpoint/checkpoint_error.hpp"
#include "trainer/checkpoint/checkpoint_folder.hpp"
#include "trainer/checkpoint/checkpoint_name.hpp"
#include "trainer/checkpoint/stored_model.hpp"
#include "trainer/run_folder.hpp"

namespace perrin::launch {
namespace {

struct VerifyArguments {
  std::filesystem::path path;
  unsigned threads = std::max(1U, std::thread::hardware_concurrency());
};

ExitCode verify_dataset(const VerifyArguments& arguments) {
  const auto begun = std::chrono::steady_clock::now();
  WorkProgress progress({"MB", 1e6});
  const data::VerifyOutcome outcome = data::verify_dataset(
      arguments.path, arguments.threads, [&](std::uint64_t done, std::uint64_t total) { progress.show(done, total); });
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begun;
  for (const std::string& sentence : outcome.damage) spdlog::error("{}", sentence);
  if (!outcome.damage.empty()) return ExitCode::data;
  spdlog::info("{}: {} images, {} bytes of shards: every checksum is right ({:.1f} s)", arguments.path.string(),
               outcome.images, outcome.bytes, elapsed.count());
  return ExitCode::ok;
}

/// A checkpoint itself, or all of a run.
std::vector<std::filesystem::path> checkpoints_at(const std::filesystem::path& path) {
  const auto of_run = trainer::list_checkpoints(trainer::RunPaths(path).checkpoints());
  return of_run.empty() ? std::vector{trainer::resolve_checkpoint(path)} : of_run;
}

ExitCode verify_checkpoints(const std::filesystem::path& path) {
  ExitCode code = ExitCode::ok;
  for (const std::filesystem::path& checkpoint : checkpoints_at(path)) {
    try {
      trainer::verify_checkpoint(checkpoint);
      spdlog::info("{}: every file has the length and SHA-256 of the manifest", checkpoint.string());
    } catch (const trainer::CheckpointError& error) {
      spdlog::error("{}", error.what());
      code = ExitCode::checkpoint;
    }
  }
  return code;
}

}  // namespace

Command verify_command(CLI::App& program) {
  CLI::App* app = program.add_subcommand("verify", "Read all of a dataset or of checkpoints and check every checksum");
  const auto arguments = std::make_shared<VerifyArguments>();
  app->add_option("PATH", arguments->path, "A dataset, a checkpoint, or a run folder (all of its checkpoints)")
      ->required()
      ->type_name("DIR");
  app->add_option("--threads", arguments->threads, "Of a dataset's verification (default: one a core)")
      ->check(CLI::Range(1, 1024).description(""))
      ->type_name("N");
  app->footer(
      "Of a dataset the CRC-32C of every image and the SHA-256 of every shard, of a checkpoint the SHA-256 of every\n"
      "file. Each damaged file and image has a line of its own; the exit code is then 65 or 66.\n"
      "\n"
      "Example:\n"
      "  perrin verify data/fashion-mnist/train\n");
  return {app, [arguments](Session&) {
            return data::is_dataset(arguments->path) ? verify_dataset(*arguments) : verify_checkpoints(arguments->path);
          }};
}

}  // namespace perrin::launch
