#include "data/manifest.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "data/data_error.hpp"
#include "data/file.hpp"
#include "data/sha256.hpp"
#include "data/shard_format.hpp"

namespace perrin::data {
namespace {

using Json = nlohmann::ordered_json;

/// About 250,000 shards; a larger file under this name is not a manifest.
constexpr std::uint64_t kMaxManifestBytes = 64 << 20;
constexpr std::size_t kSha256Digits = 64;

/// A JSON object whose members are taken by name and type, with errors that say which.
class Section {
 public:
  Section(const Json& json, std::string name, const std::filesystem::path& file)
      : json_(json), name_(std::move(name)), file_(file) {
    if (!json.is_object()) refuse(name_, "is not an object");
  }

  std::uint64_t number(const char* key) const {
    const Json& value = member(key);
    if (!value.is_number_unsigned()) refuse(path_of(key), "is not a non-negative integer");
    return value.get<std::uint64_t>();
  }

  std::string text(const char* key) const {
    const Json& value = member(key);
    if (!value.is_string()) refuse(path_of(key), "is not a string");
    return value.get<std::string>();
  }

  bool has(const char* key) const { return json_.contains(key); }

  Section section(const char* key) const { return Section(member(key), path_of(key), file_); }

  const Json& list(const char* key) const {
    const Json& value = member(key);
    if (!value.is_array()) refuse(path_of(key), "is not a list");
    return value;
  }

  std::vector<std::string> texts(const char* key) const {
    std::vector<std::string> texts;
    for (const Json& value : list(key)) {
      if (!value.is_string()) refuse(path_of(key), "holds something else than strings");
      texts.push_back(value.get<std::string>());
    }
    return texts;
  }

  std::vector<std::uint64_t> numbers(const char* key) const {
    std::vector<std::uint64_t> numbers;
    for (const Json& value : list(key)) {
      if (!value.is_number_unsigned()) refuse(path_of(key), "holds something else than non-negative integers");
      numbers.push_back(value.get<std::uint64_t>());
    }
    return numbers;
  }

  std::string path_of(const char* key) const { return name_.empty() ? key : fmt::format("{}.{}", name_, key); }

  [[noreturn]] void refuse(std::string_view key, std::string_view reason) const {
    throw DataError(file_, fmt::format("'{}' {}; restore this manifest or prepare the dataset again", key, reason));
  }

 private:
  const Json& member(const char* key) const {
    const auto found = json_.find(key);
    if (found == json_.end()) refuse(path_of(key), "is missing");
    return *found;
  }

  const Json& json_;
  std::string name_;
  const std::filesystem::path& file_;
};

/// Names with folders in them could lead out of the dataset.
bool is_plain_file_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string_view::npos &&
         name.find('\0') == std::string_view::npos;
}

bool is_sha256(std::string_view text) {
  return text.size() == kSha256Digits &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

ImageShape parse_shape(const Section& shape) {
  const std::uint64_t channels = shape.number("channels");
  const std::uint64_t height = shape.number("height");
  const std::uint64_t width = shape.number("width");
  if (!is_plausible(channels, height, width)) shape.refuse("shape", "is implausible");
  return {static_cast<std::uint32_t>(channels), static_cast<std::uint32_t>(height), static_cast<std::uint32_t>(width)};
}

/// Optional, and then whole.
ShardMetadata parse_metadata(const Section& entry) {
  if (!entry.has("metadata")) return {};
  const Section section = entry.section("metadata");
  ShardMetadata metadata{section.number("images_offset"), section.text("sha256")};
  if (!is_sha256(metadata.sha256)) section.refuse(section.path_of("sha256"), "is not 64 hexadecimal digits");
  return metadata;
}

std::vector<ShardEntry> parse_shards(const Section& root, const ImageShape& shape, const std::filesystem::path& file) {
  std::vector<ShardEntry> shards;
  for (const Json& json : root.list("shards")) {
    const Section entry(json, fmt::format("shards[{}]", shards.size()), file);
    ShardEntry shard{entry.text("path"), entry.number("n"), entry.number("bytes"), entry.text("sha256"),
                     parse_metadata(entry)};
    if (!is_plain_file_name(shard.path)) entry.refuse(entry.path_of("path"), "is not a plain file name");
    if (!is_sha256(shard.sha256)) entry.refuse(entry.path_of("sha256"), "is not 64 hexadecimal digits");
    if (shard.n == 0) entry.refuse(entry.path_of("n"), "is 0");
    if (shard.n > shard.bytes / shape.bytes()) entry.refuse(entry.path_of("bytes"), "cannot hold so many images");
    shards.push_back(std::move(shard));
  }
  return shards;
}

/// The sum, or nothing where it does not fit: hostile counts must not wrap around to a plausible one.
bool adds_up(std::uint64_t total, std::span<const std::uint64_t> parts) {
  std::uint64_t sum = 0;
  for (const std::uint64_t part : parts) {
    if (__builtin_add_overflow(sum, part, &sum)) return false;
  }
  return sum == total;
}

void require_consistent(const Section& root, const Manifest& manifest) {
  std::vector<std::uint64_t> shard_sizes;
  for (const ShardEntry& shard : manifest.shards) shard_sizes.push_back(shard.n);
  if (manifest.n == 0 || !adds_up(manifest.n, shard_sizes)) root.refuse("n", "is not the sum of the shards' n");
  std::vector<std::uint64_t> counts = manifest.class_histogram;
  counts.push_back(manifest.unlabelled);
  if (!adds_up(manifest.n, counts)) root.refuse("class_histogram", "and 'unlabelled' do not add up to n");
  if (!manifest.class_names.empty() && manifest.class_names.size() != manifest.class_histogram.size()) {
    root.refuse("class_names", "are not as many as 'class_histogram' has entries");
  }
  if (root.text("fingerprint") != fingerprint(manifest)) root.refuse("fingerprint", "does not fit the rest");
}

}  // namespace

std::string fingerprint(const Manifest& manifest) {
  Sha256 hash;
  hash.update(fmt::format("{} {}\n{} {} {} {}\n", kDatasetFormat, kFormatVersion, manifest.n, manifest.shape.channels,
                          manifest.shape.height, manifest.shape.width));
  for (const ShardEntry& shard : manifest.shards) hash.update(fmt::format("{} {}\n", shard.n, shard.sha256));
  return hash.hex();
}

ExpectedShard expected_of(const ShardEntry& entry, const ImageShape& shape) {
  return {entry.bytes, entry.n * shape.bytes(), entry.metadata};
}

std::string to_json(const Manifest& manifest) {
  Json shards = Json::array();
  for (const ShardEntry& shard : manifest.shards) {
    Json& entry = shards.emplace_back(
        Json{{"path", shard.path}, {"n", shard.n}, {"bytes", shard.bytes}, {"sha256", shard.sha256}});
    if (!shard.metadata.sha256.empty())
      entry["metadata"] = {{"images_offset", shard.metadata.images_offset}, {"sha256", shard.metadata.sha256}};
  }
  const Json json = {
      {"format", kDatasetFormat},
      {"format_version", kFormatVersion},
      {"uuid", manifest.uuid},
      {"n", manifest.n},
      {"shape",
       {{"channels", manifest.shape.channels}, {"height", manifest.shape.height}, {"width", manifest.shape.width}}},
      {"layout", kLayout},
      {"value_range", kValueRange},
      {"class_names", manifest.class_names},
      {"class_histogram", manifest.class_histogram},
      {"unlabelled", manifest.unlabelled},
      {"converter", manifest.converter},
      {"transform", manifest.transform},
      {"shuffle", {{"algorithm", manifest.shuffle_algorithm}, {"seed", manifest.shuffle_seed}}},
      {"shards", std::move(shards)},
      {"fingerprint", fingerprint(manifest)},
  };
  return json.dump(/*indent=*/2) + "\n";
}

Manifest parse_manifest(std::string_view text, const std::filesystem::path& file) {
  Json json;
  try {
    json = Json::parse(text);
  } catch (const Json::parse_error& error) {
    throw DataError(file, error.byte,
                    "is not JSON from here on; it is truncated or damaged: restore it or prepare the dataset again");
  } catch (const Json::out_of_range& error) {  // digits that lost the text between them: 204e797872
    throw DataError(file,
                    fmt::format("has a number that is none ({}); it is damaged: restore it or prepare the dataset "
                                "again",
                                error.what()));
  }
  const Section root(json, "", file);
  if (root.text("format") != kDatasetFormat) root.refuse("format", "is not that of a perrin dataset");
  if (const std::uint64_t version = root.number("format_version"); version != kFormatVersion) {
    throw DataError(file, fmt::format("has format version {}, this program reads version {}; use a matching version of "
                                      "perrin",
                                      version, kFormatVersion));
  }
  if (root.text("layout") != kLayout) root.refuse("layout", "is not NCHW");
  if (root.text("value_range") != kValueRange) root.refuse("value_range", "is not 0..255");
  Manifest manifest;
  manifest.uuid = root.text("uuid");
  manifest.n = root.number("n");
  manifest.shape = parse_shape(root.section("shape"));
  manifest.class_names = root.texts("class_names");
  manifest.class_histogram = root.numbers("class_histogram");
  manifest.unlabelled = root.number("unlabelled");
  manifest.converter = root.text("converter");
  manifest.transform = root.text("transform");
  const Section shuffle = root.section("shuffle");
  manifest.shuffle_algorithm = shuffle.text("algorithm");
  manifest.shuffle_seed = shuffle.number("seed");
  manifest.shards = parse_shards(root, manifest.shape, file);
  require_consistent(root, manifest);
  return manifest;
}

bool is_dataset(const std::filesystem::path& folder) {
  std::ifstream file(folder / kManifestName);
  const auto manifest = nlohmann::json::parse(file, /*cb=*/nullptr, /*allow_exceptions=*/false);
  return manifest.is_object() && manifest.contains("format") && manifest["format"] == kDatasetFormat;
}

Manifest read_manifest(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / kManifestName;
  std::error_code ignored;
  if (!std::filesystem::is_directory(folder, ignored)) {
    throw DataError(folder, "is not a folder; give the folder that `perrin prepare` wrote");
  }
  if (!std::filesystem::exists(file, ignored)) {
    throw DataError(folder, "has no manifest.json; give the folder that `perrin prepare` wrote, or prepare it again");
  }
  return parse_manifest(read_text_file(file, kMaxManifestBytes), file);
}

}  // namespace perrin::data
