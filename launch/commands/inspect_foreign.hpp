#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>

namespace perrin::launch {

/// Whether a folder is a model as diffusers loads it: a pipeline (model_index.json), or one network (config.json).
bool is_model_folder(const std::filesystem::path& folder);

/// What a model folder holds: classes, the facts of the network and its noise schedule, every tensor, file by file.
/// @throws data::DataError
nlohmann::ordered_json inspect_model_folder(const std::filesystem::path& folder);

/// What a single file holds: a perrin shard, a safetensors file, or arrays of numpy.savez (samples).
/// @throws data::DataError for other files; pickles are refused
nlohmann::ordered_json inspect_file(const std::filesystem::path& file);

}  // namespace perrin::launch
