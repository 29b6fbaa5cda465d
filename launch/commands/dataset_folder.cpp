#include "launch/commands/dataset_folder.hpp"

#include <fstream>
#include <nlohmann/json.hpp>

#include "data/manifest.hpp"
#include "data/shard_format.hpp"

namespace perrin::launch {

bool is_dataset(const std::filesystem::path& folder) {
  std::ifstream file(folder / data::kManifestName);
  const auto manifest = nlohmann::json::parse(file, /*cb=*/nullptr, /*allow_exceptions=*/false);
  return manifest.is_object() && manifest.contains("format") && manifest["format"] == data::kDatasetFormat;
}

}  // namespace perrin::launch
