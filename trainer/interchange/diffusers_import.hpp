#pragma once

#include <filesystem>

#include "trainer/interchange/imported_model.hpp"

namespace perrin::trainer {

/// Whether a folder is a model as diffusers saves it.
bool is_diffusers_folder(const std::filesystem::path& folder);

/// Reads a folder as a diffusers pipeline of a UNet2DModel is saved: unet/ and scheduler/, or the files of both side by
/// side. Attention may have its old names (query, key, value, proj_attn). A last class whose vector is 0 becomes no
/// class: it is the null class that export_diffusers adds. Weights in fp16 or bf16 become fp32; pickles (.bin) are
/// never opened.
/// @throws data::DataError naming the file and the key or tensor that perrin cannot follow, and what to do
ImportedModel import_diffusers(const std::filesystem::path& folder);

}  // namespace perrin::trainer
