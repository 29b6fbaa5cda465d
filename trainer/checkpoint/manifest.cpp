#include "trainer/checkpoint/manifest.hpp"

#include <fmt/format.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "data/data_error.hpp"
#include "data/file.hpp"
#include "data/sha256.hpp"
#include "trainer/checkpoint/checkpoint_error.hpp"
#include "trainer/checkpoint/part_file.hpp"

namespace perrin::trainer {
namespace {

using Json = nlohmann::ordered_json;

std::string name_of(Contents contents) { return contents == Contents::checkpoint ? "checkpoint" : "snapshot"; }

std::string format_of(Contents contents) { return "perrin-" + name_of(contents); }

constexpr std::uint64_t kLargestManifest = std::uint64_t{16}
                                           << 20;  // bytes; bounds what a damaged file can make us allocate

Json without_hash(const CheckpointManifest& m) {
  Json files = Json::object();
  for (const auto& [name, file] : m.files) files[name] = {{"bytes", file.bytes}, {"sha256", file.sha256}};
  const auto& shape = m.origin.image_shape;
  Json json = {{"format", format_of(m.contents)},
               {"format_version", m.format_version},
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
  if (m.format_version >= 2) {
    Json& window = json["loss_window"];
    window["simple"] = m.losses.simple;
    window["bound"] = m.losses.bound;
    window["quartile_sums"] = m.losses.quartile_sums;
    window["quartile_weights"] = m.losses.quartile_weights;
    json["power_sigmas"] = m.origin.power_sigmas;
    if (!m.origin.machine.empty()) json["machine"] = m.origin.machine;
  }
  if (m.format_version >= 3) {
    json["incarnation"] = m.incarnation;
    json["parent"] = m.parent;
    json["rollbacks"] = m.progress.rollbacks;
    if (m.heldout_loss) json["heldout_loss"] = *m.heldout_loss;
    if (!m.origin.program.empty()) json["program"] = m.origin.program;
  }
  return json;
}

/// A sum that overflowed is null in JSON; the checkpoint is sound all the same.
double number(const Json& json) {
  return json.is_null() ? std::numeric_limits<double>::quiet_NaN() : json.get<double>();
}

LossWindow loss_window(const Json& json, int format_version) {
  LossWindow window{.sum = number(json.at("sum")), .count = json.at("count")};
  if (format_version < 2) {
    window.simple = window.sum;  // there was no other loss
    return window;
  }
  window.simple = number(json.at("simple"));
  window.bound = number(json.at("bound"));
  for (std::size_t q = 0; q < LossWindow::kQuartiles; ++q) {
    window.quartile_sums[q] = number(json.at("quartile_sums").at(q));
    window.quartile_weights[q] = number(json.at("quartile_weights").at(q));
  }
  return window;
}

constexpr int kCompact = -1, kIndented = 2;

/// Paths in the configuration may hold any bytes; what is not UTF-8 is replaced, since a checkpoint must not fail over
/// it.
std::string text_of(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

CheckpointManifest from_json(const Json& json) {
  CheckpointManifest m;
  m.format_version = json.at("format_version");
  m.contents = json.at("format") == format_of(Contents::snapshot) ? Contents::snapshot : Contents::checkpoint;
  m.progress = {.step = json.at("step"), .position = json.at("position"), .updates = json.at("updates")};
  m.losses = loss_window(json.at("loss_window"), m.format_version);
  m.metrics_bytes = json.at("metrics_bytes");
  m.origin.config = json.at("config");
  m.origin.dataset_fingerprint = json.at("dataset_fingerprint");
  m.origin.image_shape = {json.at("image_shape").at(0), json.at("image_shape").at(1), json.at("image_shape").at(2)};
  m.origin.sample_order = json.at("sample_order");
  m.origin.ema_decays = json.at("ema_decays").get<std::vector<double>>();
  if (m.format_version >= 2) m.origin.power_sigmas = json.at("power_sigmas").get<std::vector<double>>();
  m.origin.machine = json.value("machine", "");
  if (m.format_version >= 3) {
    m.incarnation = json.at("incarnation");
    m.parent = json.at("parent");
    m.progress.rollbacks = json.at("rollbacks");
    m.origin.program = json.value("program", "");
    if (json.contains("heldout_loss")) m.heldout_loss = number(json.at("heldout_loss"));
  }
  m.layout_sha256 = json.at("layout_sha256");
  for (const auto& [name, file] : json.at("files").items()) m.files[name] = {file.at("bytes"), file.at("sha256")};
  return m;
}

/// The manifest's own checksum: of all the rest of it, without blanks.
std::string hash_of(const Json& rest) { return data::sha256_hex(text_of(rest, kCompact)); }

Json parse(const std::filesystem::path& path) {
  constexpr int kDeepest = 3;  // in a manifest; a hostile one might be deep enough to exhaust the stack
  const std::string text = data::read_text_file(path, kLargestManifest);
  if (text.find('\0') != std::string::npos)  // which the parser takes for the end
    throw DamagedCheckpoint(path, "is damaged: holds zero bytes");
  return Json::parse(text, [&](int depth, Json::parse_event_t, const Json&) {
    if (depth > kDeepest) throw DamagedCheckpoint(path, "is damaged: nested deeper than a manifest");
    return true;
  });
}

/// Before anything in it is believed, its version too.
/// @throws DamagedCheckpoint
void require_unaltered(const std::filesystem::path& path, const Json& json) {
  Json rest = json;
  rest.erase("manifest_sha256");
  if (json.at("manifest_sha256") != hash_of(rest))
    throw DamagedCheckpoint(path, "does not match its own checksum: the file was changed after it was written");
}

/// @throws CheckpointError for files outside of the folder
void require_plain_names(const std::filesystem::path& path, const CheckpointManifest& manifest) {
  for (const auto& [name, file] : manifest.files)
    if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos)
      throw CheckpointError(path, "names a file outside of its folder: '" + name + "'");
}

/// @throws CheckpointError for a manifest that this program does not read, or that is of something else
void require_format(const std::filesystem::path& path, const Json& json, Contents expected) {
  const Json& format = json.at("format");
  if (format != format_of(expected)) {
    if (format == format_of(Contents::snapshot))
      throw CheckpointError(path, "is of a snapshot of averages; give a run folder or one of its checkpoints");
    throw CheckpointError(path, "is not the manifest of a perrin " + name_of(expected));
  }
  const Json& version = json.at("format_version");
  if (version < 1 || version > CheckpointManifest::kFormatVersion)
    throw CheckpointError(path, fmt::format("has format version {}, this program reads versions 1 to {}; use the "
                                            "perrin that wrote it",
                                            version.dump(), CheckpointManifest::kFormatVersion));
}

}  // namespace

std::vector<std::string> CheckpointOrigin::averages() const {
  std::vector<std::string> names;
  for (const double decay : ema_decays) names.push_back(fmt::format("EMA {}", decay));
  for (const double sigma_rel : power_sigmas) names.push_back(fmt::format("power EMA {}", sigma_rel));
  return names;
}

std::string CheckpointOrigin::power_average(std::size_t index) const {
  return fmt::format("ema-{}", ema_decays.size() + index);
}

std::vector<std::string> CheckpointManifest::files_of(const std::string& buffer) const {
  std::vector<std::string> found;
  for (const auto& [name, file] : files)
    if (buffer_of(name) == buffer) found.push_back(name);
  if (found.empty()) throw std::out_of_range("no file holds " + buffer);
  return found;
}

std::string to_json(const CheckpointManifest& manifest) {
  Json json = without_hash(manifest);
  json["manifest_sha256"] = hash_of(json);
  return text_of(json, kIndented) + "\n";
}

CheckpointManifest read_manifest(const std::filesystem::path& folder, Contents expected) {
  const std::filesystem::path path = folder / CheckpointManifest::kFileName;
  if (!std::filesystem::exists(path))
    throw DamagedCheckpoint(path, "is missing, so the folder is no complete checkpoint");
  try {
    const Json json = parse(path);
    require_unaltered(path, json);
    require_format(path, json, expected);
    CheckpointManifest manifest = from_json(json);
    // What was understood, written again, is what was read: an unknown field would be missing in it.
    if (json.at("manifest_sha256") != hash_of(without_hash(manifest)))
      throw CheckpointError(path, "holds a field that this program does not know; use the perrin that wrote it");
    require_plain_names(path, manifest);
    return manifest;
  } catch (const nlohmann::json::exception& error) {
    throw DamagedCheckpoint(path, std::string("is damaged: ") + error.what());
  } catch (const data::DataError& error) {
    throw CheckpointError(folder, std::string("cannot be read: ") + error.what());
  }
}

}  // namespace perrin::trainer
