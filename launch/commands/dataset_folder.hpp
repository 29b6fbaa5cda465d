#pragma once

#include <filesystem>

namespace perrin::launch {

/// Whether the folder's manifest calls itself a dataset's; a checkpoint has a manifest.json too.
bool is_dataset(const std::filesystem::path& folder);

}  // namespace perrin::launch
