#include <fmt/format.h>

#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "data/dataset.hpp"
#include "data/shard_format.hpp"
#include "launch/commands/command.hpp"
#include "launch/config/key_table.hpp"
#include "launch/config/read.hpp"
#include "trainer/checkpoint/stored_model.hpp"

namespace perrin::launch {
namespace {

using Json = nlohmann::ordered_json;

struct InspectArguments {
  std::filesystem::path path;
  bool json = false;
};

/// Whether the folder's manifest calls itself a dataset's; a checkpoint has a manifest.json too.
bool is_dataset(const std::filesystem::path& folder) {
  std::ifstream file(folder / data::kManifestName);
  const Json manifest = Json::parse(file, /*cb=*/nullptr, /*allow_exceptions=*/false);
  return manifest.is_object() && manifest.contains("format") && manifest["format"] == data::kDatasetFormat;
}

Json inspect_dataset(const std::filesystem::path& folder) {
  const data::Dataset dataset(folder);
  const data::Manifest& manifest = dataset.manifest();
  std::uint64_t bytes = 0;
  Json shards = Json::array();
  for (const data::ShardEntry& shard : manifest.shards) {
    bytes += shard.bytes;
    shards.push_back({{"path", shard.path}, {"images", shard.n}, {"bytes", shard.bytes}, {"sha256", shard.sha256}});
  }
  return {{"kind", "dataset"},
          {"path", folder.string()},
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

ExitCode inspect(const InspectArguments& arguments) {
  const Json json = is_dataset(arguments.path) ? inspect_dataset(arguments.path) : inspect_checkpoint(arguments.path);
  fmt::print("{}", arguments.json ? json.dump(2) + "\n" : as_text(json));
  return ExitCode::ok;
}

}  // namespace

Command inspect_command(CLI::App& program) {
  CLI::App* app =
      program.add_subcommand("inspect", "Say what a run, a checkpoint or a dataset holds, with its SHA-256 sums");
  const auto arguments = std::make_shared<InspectArguments>();
  app->add_option("PATH", arguments->path, "A run folder (its newest checkpoint), a checkpoint or a dataset")
      ->required()
      ->type_name("DIR");
  app->add_flag("--json", arguments->json, "Print JSON");
  app->footer(
      "A checkpoint is verified first: every file must have the length and SHA-256 that its manifest says.\n"
      "\n"
      "Example:\n"
      "  perrin inspect runs/quickstart --json\n");
  return {app, [arguments](Session&) { return inspect(*arguments); }};
}

}  // namespace perrin::launch
