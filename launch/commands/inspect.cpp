#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "comm/flight_report.hpp"
#include "data/batch_loader.hpp"
#include "data/dataset.hpp"
#include "launch/commands/command.hpp"
#include "launch/commands/inspect_foreign.hpp"
#include "launch/config/key_table.hpp"
#include "launch/config/read.hpp"
#include "launch/usage_error.hpp"
#include "trainer/checkpoint/checkpoint_folder.hpp"
#include "trainer/checkpoint/checkpoint_name.hpp"
#include "trainer/checkpoint/stored_model.hpp"
#include "trainer/interchange/grid.hpp"
#include "trainer/interchange/png.hpp"
#include "trainer/run_folder.hpp"

namespace perrin::launch {
namespace {

using Json = nlohmann::ordered_json;

struct InspectArguments {
  std::filesystem::path path, contact_sheet;
  bool json = false;
};

/// The first images, which are a fair sample: prepare stores them shuffled.
void write_contact_sheet(const data::Dataset& dataset, const std::filesystem::path& file) {
  constexpr std::int64_t kColumns = 8, kMostImages = 64;
  const data::ImageShape& shape = dataset.shape();
  if (shape.channels != 1 && shape.channels != 3)
    throw UsageError(fmt::format("a PNG has 1 or 3 channels, these images have {}", shape.channels));
  const std::int64_t count = std::min(static_cast<std::int64_t>(dataset.size()), kMostImages);
  data::Batch batch = data::read_batch(dataset, 0, static_cast<std::uint64_t>(count));
  const at::Tensor images =
      at::from_blob(batch.images.data(), {count, shape.channels, shape.height, shape.width}, at::kByte);
  trainer::write_png(file, trainer::make_grid(images, (count + kColumns - 1) / kColumns, kColumns));
}

Json inspect_dataset(const data::Dataset& dataset) {
  const data::Manifest& manifest = dataset.manifest();
  std::uint64_t bytes = 0;
  Json shards = Json::array();
  for (const data::ShardEntry& shard : manifest.shards) {
    bytes += shard.bytes;
    shards.push_back({{"path", shard.path}, {"images", shard.n}, {"bytes", shard.bytes}, {"sha256", shard.sha256}});
  }
  return {{"kind", "dataset"},
          {"path", dataset.folder().string()},
          {"images", dataset.size()},
          {"image_shape", {dataset.shape().channels, dataset.shape().height, dataset.shape().width}},
          {"class_names", dataset.class_names()},
          {"class_histogram", manifest.class_histogram},
          {"unlabelled", manifest.unlabelled},
          {"converter", manifest.converter},
          {"transform", manifest.transform},
          {"shuffle_algorithm", manifest.shuffle_algorithm},
          {"shuffle_seed", manifest.shuffle_seed},
          {"fingerprint", dataset.fingerprint()},
          {"bytes", bytes},
          {"shards", shards}};
}

/// One "name value" a line, nested names indented.
std::string as_text(const Json& json, const std::string& indent = "") {
  std::string text;
  for (const auto& [name, value] : json.items()) {
    if (value.is_object()) {
      text += indent + name + "\n" + as_text(value, indent + "  ");
    } else if (value.is_array() && !value.empty() && value.front().is_object()) {
      text += indent + name + "\n";
      for (const Json& entry : value) text += indent + "  " + entry.dump() + "\n";
    } else {
      text += fmt::format("{}{:<20} {}\n", indent, name, value.is_string() ? value.get<std::string>() : value.dump());
    }
  }
  return text;
}

/// A checkpoint, and what its configuration says of how to use it.
Json inspect_checkpoint(const std::filesystem::path& path) {
  Json json = trainer::inspect_checkpoint(path);
  const std::filesystem::path checkpoint = trainer::resolve_checkpoint(path);
  const trainer::Config config =
      read_config_text(trainer::read_manifest(checkpoint).origin.config, checkpoint.string() + " (config)");
  for (const char* key : {"diffusion.prediction", "diffusion.variance_type", "diffusion.timesteps", "model.num_classes",
                          "model.label_dropout"})
    std::visit([&](const auto& value) { json[key] = value; }, find_key(key)->get(config));
  return json;
}

Json as_json(const comm::CommunicatorReport& communicator) {
  Json positions = Json::array();
  for (const comm::RankPosition& position : communicator.positions) {
    Json json = {{"rank", position.rank}, {"completed", position.completed}, {"submitted", position.submitted}};
    if (position.unfinished != 0)
      json.update({{"unfinished", position.unfinished}, {"state", comm::name_of(position.state)}});
    positions.push_back(std::move(json));
  }
  Json json = {{"name", communicator.name}, {"ranks", positions}};
  if (communicator.sequence != 0) {
    json.update({{"differ_at", communicator.sequence},
                 {"operation", communicator.operation},
                 {"phase", communicator.phase},
                 {"late_ranks", communicator.late_ranks}});
  }
  return json;
}

Json as_json(const comm::FlightReport& report) {
  Json json = {{"summary", report.summary()}, {"named_ranks", report.named_ranks}};
  for (const comm::RankEnding& ending : report.endings) {
    json["endings"].push_back({{"rank", ending.rank},
                               {"host", ending.host},
                               {"pid", ending.pid},
                               {"ending", ending.ending == comm::Ending::running ? "killed" : name_of(ending.ending)},
                               {"exit_code", ending.exit_code},
                               {"reason", ending.reason},
                               {"phase", comm::name_of(ending.phase)},
                               {"silent_seconds", ending.silent_seconds},
                               {"pause_seconds", ending.pause_seconds}});
  }
  if (!report.missing.empty()) json["missing_ranks"] = report.missing;
  if (!report.unreadable.empty()) json["unreadable"] = report.unreadable;
  for (const comm::CommunicatorReport& communicator : report.communicators)
    json["communicators"].push_back(as_json(communicator));
  for (const comm::Mismatch& mismatch : report.mismatches) {
    json["mismatches"].push_back({{"communicator", mismatch.communicator},
                                  {"sequence", mismatch.sequence},
                                  {"ranks", {mismatch.rank_a, mismatch.rank_b}},
                                  {"operations", {mismatch.operation_a, mismatch.operation_b}}});
  }
  return json;
}

/// The newest checkpoint of a run, and who was late where its last start ended badly: that may be before the first
/// checkpoint.
Json inspect_run(const std::filesystem::path& path) {
  const trainer::RunPaths paths(path);
  const auto flight = comm::merge_flight(paths.flight());
  const bool tells = flight && (flight->ended_badly() || !flight->unreadable.empty());
  if (!tells) return inspect_checkpoint(path);
  Json json = trainer::list_checkpoints(paths.checkpoints()).empty() ? Json{{"kind", "run"}, {"path", path.string()}}
                                                                     : inspect_checkpoint(path);
  json["last_start"] = as_json(*flight);
  return json;
}

Json inspect_path(const InspectArguments& arguments) {
  if (data::is_dataset(arguments.path)) {
    const data::Dataset dataset(arguments.path);
    if (!arguments.contact_sheet.empty()) write_contact_sheet(dataset, arguments.contact_sheet);
    return inspect_dataset(dataset);
  }
  if (!arguments.contact_sheet.empty())
    throw UsageError("--contact-sheet draws the images of a dataset; " + arguments.path.string() + " is none");
  if (std::filesystem::is_regular_file(arguments.path)) return inspect_file(arguments.path);
  return is_model_folder(arguments.path) ? inspect_model_folder(arguments.path) : inspect_run(arguments.path);
}

ExitCode inspect(const InspectArguments& arguments) {
  const Json json = inspect_path(arguments);
  fmt::print("{}", arguments.json ? json.dump(2) + "\n" : as_text(json));
  return ExitCode::ok;
}

}  // namespace

Command inspect_command(CLI::App& program) {
  CLI::App* app = program.add_subcommand(
      "inspect", "Say what a run, checkpoint, dataset, shard, model or sample file holds, with its SHA-256 sums");
  const auto arguments = std::make_shared<InspectArguments>();
  app->add_option(
         "PATH", arguments->path,
         "A run folder (its newest checkpoint), a checkpoint, a dataset, a shard, a diffusers folder, a .safetensors "
         "file, or an .npz file")
      ->required()
      ->type_name("PATH");
  app->add_option("--contact-sheet", arguments->contact_sheet, "Write the first 64 images of a dataset as a PNG")
      ->type_name("FILE");
  app->add_flag("--json", arguments->json, "Print JSON");
  app->footer(
      "A checkpoint is verified first: every file must have the length and SHA-256 that its manifest says.\n"
      "Pickles are never opened.\n"
      "Of a run whose last start ended badly it says which ranks failed or were late, and at which operation.\n"
      "\n"
      "Example:\n"
      "  perrin inspect runs/quickstart --json\n");
  return {app, [arguments](Session&) { return inspect(*arguments); }};
}

}  // namespace perrin::launch
