#include "trainer/checkpoint/manifest.hpp"

#include <nlohmann/json.hpp>

#include "data/data_error.hpp"
#include "data/file.hpp"
#include "data/sha256.hpp"
#include "trainer/checkpoint/checkpoint_error.hpp"

namespace perrin::trainer {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "perrin-checkpoint";
constexpr std::uint64_t kLargestManifest = std::uint64_t{16}
                                           << 20;  // bytes; bounds what a damaged file can make us allocate

Json without_hash(const CheckpointManifest& m) {
  Json files = Json::object();
  for (const auto& [name, file] : m.files) files[name] = {{"bytes", file.bytes}, {"sha256", file.sha256}};
  const auto& shape = m.origin.image_shape;
  return {{"format", kFormat},
          {"format_version", CheckpointManifest::kFormatVersion},
          {"step", m.progress.step},
          {"position", m.progress.position},
          {"updates", m.progress.updates},
          {"loss_window", {{"sum", m.losses.sum}, {"count", m.losses.count}}},
          {"metrics_bytes", m.metrics_bytes},
          {"dataset_fingerprint", m.origin.dataset_fingerprint},
          {"image_shape", {shape.channels, shape.height, shape.width}},
          {"sample_order", m.origin.sample_order},
          {"ema_decays", m.origin.ema_decays},
          {"layout_sha256", m.layout_sha256},
          {"config", m.origin.config},
          {"files", files}};
}

constexpr int kCompact = -1, kIndented = 2;

/// Paths in the configuration may hold any bytes; what is not UTF-8 is replaced, since a checkpoint must not fail over
/// it.
std::string text_of(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

CheckpointManifest from_json(const Json& json) {
  CheckpointManifest m;
  m.progress = {json.at("step"), json.at("position"), json.at("updates")};
  m.losses = {json.at("loss_window").at("sum"), json.at("loss_window").at("count")};
  m.metrics_bytes = json.at("metrics_bytes");
  m.origin.config = json.at("config");
  m.origin.dataset_fingerprint = json.at("dataset_fingerprint");
  m.origin.image_shape = {json.at("image_shape").at(0), json.at("image_shape").at(1), json.at("image_shape").at(2)};
  m.origin.sample_order = json.at("sample_order");
  m.origin.ema_decays = json.at("ema_decays").get<std::vector<double>>();
  m.layout_sha256 = json.at("layout_sha256");
  for (const auto& [name, file] : json.at("files").items()) m.files[name] = {file.at("bytes"), file.at("sha256")};
  return m;
}

}  // namespace

std::string to_json(const CheckpointManifest& manifest) {
  Json json = without_hash(manifest);
  json["manifest_sha256"] = data::sha256_hex(text_of(json, kCompact));
  return text_of(json, kIndented) + "\n";
}

CheckpointManifest read_manifest(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / CheckpointManifest::kFileName;
  if (!std::filesystem::exists(path))
    throw DamagedCheckpoint(path, "is missing, so the folder is no complete checkpoint");
  try {
    const Json json = Json::parse(data::read_text_file(path, kLargestManifest));
    if (json.at("format") != kFormat) throw CheckpointError(path, "is not the manifest of a perrin checkpoint");
    if (json.at("format_version") != CheckpointManifest::kFormatVersion)
      throw CheckpointError(path,
                            "has format version " + json.at("format_version").dump() + ", this program reads version " +
                                std::to_string(CheckpointManifest::kFormatVersion) + "; use the perrin that wrote it");
    CheckpointManifest manifest = from_json(json);
    // What is hashed is what was understood: an unknown, missing or altered field changes it.
    if (data::sha256_hex(text_of(without_hash(manifest), kCompact)) != json.at("manifest_sha256"))
      throw DamagedCheckpoint(path, "does not match its own checksum: the file was changed after it was written");
    return manifest;
  } catch (const nlohmann::json::exception& error) {
    throw DamagedCheckpoint(path, std::string("is damaged: ") + error.what());
  } catch (const data::DataError& error) {
    throw CheckpointError(folder, std::string("cannot be read: ") + error.what());
  }
}

}  // namespace perrin::trainer
