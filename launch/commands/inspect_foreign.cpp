#include "launch/commands/inspect_foreign.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/data_error.hpp"
#include "data/file.hpp"
#include "data/sha256.hpp"
#include "data/shard_reader.hpp"
#include "data/source/npz.hpp"
#include "data/source/zip_archive.hpp"
#include "trainer/interchange/safetensors_format.hpp"

namespace perrin::launch {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::string_view kIndexName = "model_index.json";
constexpr std::string_view kConfigName = "config.json";
constexpr std::string_view kSchedulerConfigName = "scheduler_config.json";
constexpr std::uint64_t kMaxConfigBytes = std::uint64_t{16} << 20;

/// What says what a network or a schedule is; the rest of its configuration is spelling.
constexpr std::array kFacts = {"_class_name",      "sample_size",           "in_channels",
                               "out_channels",     "block_out_channels",    "layers_per_block",
                               "down_block_types", "attention_head_dim",    "resnet_time_scale_shift",
                               "dropout",          "num_class_embeds",      "prediction_type",
                               "beta_schedule",    "num_train_timesteps",   "variance_type",
                               "timestep_spacing", "rescale_betas_zero_snr"};

std::string_view name_of(trainer::ElementType type) {
  switch (type) {
    case trainer::ElementType::F64:
      return "float64";
    case trainer::ElementType::F32:
      return "float32";
    case trainer::ElementType::F16:
      return "float16";
    case trainer::ElementType::BF16:
      return "bfloat16";
    case trainer::ElementType::I64:
      return "int64";
    case trainer::ElementType::I32:
      return "int32";
    case trainer::ElementType::U8:
      return "uint8";
    case trainer::ElementType::BOOL:
      return "bool";
  }
  return "unknown";
}

Json read_config(const fs::path& file) {
  Json json = Json::parse(data::read_text_file(file, kMaxConfigBytes), /*cb=*/nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) throw data::DataError(file, "is no JSON object; the export is incomplete: write it again");
  return json;
}

Json facts_of(const Json& config) {
  Json facts = Json::object();
  for (const char* fact : kFacts) {
    if (config.contains(fact) && !config[fact].is_null()) facts[fact] = config[fact];
  }
  return facts;
}

Json inspect_safetensors(const fs::path& path) {
  const trainer::SafetensorsFile file = trainer::SafetensorsFile::read(path);
  std::uint64_t elements = 0, bytes = 0;
  std::set<std::string_view> types;
  Json tensors = Json::array();
  for (const auto& [name, tensor] : file.tensors()) {
    elements += tensor.bytes.size() / trainer::size_of(tensor.type);
    bytes += tensor.bytes.size();
    types.insert(name_of(tensor.type));
    tensors.push_back({{"name", name}, {"dtype", name_of(tensor.type)}, {"shape", tensor.shape}});
  }
  return {{"kind", "safetensors"},
          {"path", path.string()},
          {"parameters", elements},
          {"dtypes", types},
          {"bytes", bytes},
          {"sha256", data::sha256_of_file(path)},
          {"metadata", file.metadata()},
          {"tensors", tensors}};
}

Json inspect_zip(const fs::path& path) {
  const data::ZipArchive archive(path);
  if (!data::is_npz(archive)) {
    const auto& members = archive.members();
    if (std::any_of(members.begin(), members.end(), [](const auto& member) { return member.name.ends_with(".pkl"); })) {
      throw data::DataError(path,
                            "is a checkpoint of PyTorch, a pickle, which can run any code when it is opened, and is "
                            "refused; save its tensors with safetensors");
    }
    throw data::DataError(path, "is a zip archive, but not of numpy.savez; `perrin prepare` makes a dataset of images");
  }
  Json arrays = Json::array();
  for (const data::NpzArray& array : data::list_npz(archive))
    arrays.push_back({{"name", array.name}, {"dtype", array.type}, {"shape", array.shape}});
  return {{"kind", "npz"},
          {"path", path.string()},
          {"bytes", fs::file_size(path)},
          {"sha256", data::sha256_of_file(path)},
          {"arrays", arrays}};
}

/// One shard without its manifest.
Json inspect_shard(const fs::path& file) {
  const data::ShardReader shard(file);
  const data::ShardAttributes& attributes = shard.attributes();
  std::vector<std::uint64_t> histogram(attributes.class_names.size());
  std::uint64_t unlabelled = 0;
  for (std::uint64_t i = 0; i < shard.size(); ++i) {
    const std::int32_t label = shard.label(i);
    if (label < 0) {
      ++unlabelled;
      continue;
    }
    const auto index = static_cast<std::size_t>(label);
    if (index >= histogram.size()) histogram.resize(index + 1);
    ++histogram[index];
  }
  return {{"kind", "shard"},
          {"path", file.string()},
          {"images", shard.size()},
          {"image_shape", {shard.shape().channels, shard.shape().height, shard.shape().width}},
          {"class_names", attributes.class_names},
          {"class_histogram", histogram},
          {"unlabelled", unlabelled},
          {"converter", attributes.converter},
          {"transform", attributes.transform},
          {"shuffle_seed", attributes.shuffle_seed},
          {"dataset_uuid", attributes.dataset_uuid},
          {"shard_index", attributes.shard_index},
          {"num_shards", attributes.num_shards},
          {"bytes", fs::file_size(file)}};
}

/// A network in a folder of its own, or beside its pipeline's schedule.
void add_part(Json& json, const fs::path& folder, const std::string& name) {
  for (const std::string_view config : {kConfigName, kSchedulerConfigName}) {
    if (fs::exists(folder / config)) json[name] = facts_of(read_config(folder / config));
  }
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files) {
    if (file.extension() == ".safetensors") json["weights"].push_back(inspect_safetensors(file));
    if (file.extension() == ".bin" || file.extension() == ".ckpt" || file.extension() == ".pt")
      json["not_opened"].push_back(file.string() + " (a pickle, which can run any code)");
  }
}

}  // namespace

bool is_model_folder(const fs::path& folder) {
  return fs::is_regular_file(folder / kIndexName) || fs::is_regular_file(folder / kConfigName);
}

Json inspect_model_folder(const fs::path& folder) {
  Json json = {{"kind", "model"}, {"path", folder.string()}};
  if (!fs::exists(folder / kIndexName)) {
    add_part(json, folder, "network");
    return json;
  }
  const Json index = read_config(folder / kIndexName);
  json["pipeline"] = index.value("_class_name", Json());
  for (const auto& [name, value] : index.items()) {
    // Names come from the file: what they lead to must be a folder right here.
    if (value.is_array() && fs::path(name).filename() == name && fs::is_directory(folder / name))
      add_part(json, folder / name, name);
  }
  return json;
}

Json inspect_file(const fs::path& path) {
  const data::File file = data::File::open_for_reading(path);
  std::array<char, 9> start{};
  const std::size_t length = std::min<std::uint64_t>(file.size(), start.size());
  file.pread_exact(std::as_writable_bytes(std::span(start.data(), length)), 0);
  const std::string_view head(start.data(), length);
  if (head.starts_with("PK\x03\x04") || head.starts_with("PK\x05\x06")) return inspect_zip(path);
  if (head.size() == start.size() && head.back() == '{') return inspect_safetensors(path);
  if (head.size() > 2 && head[0] == '\x80' && head[1] >= 2 && head[1] <= 5)
    throw data::DataError(path, "is a Python pickle, which can run any code when it is opened, and is refused");
  return inspect_shard(path);
}

}  // namespace perrin::launch
