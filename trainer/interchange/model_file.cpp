#include "trainer/interchange/model_file.hpp"

#include <ATen/ATen.h>
#include <unistd.h>

#include <cstdio>
#include <system_error>
#include <utility>

#include "data/data_error.hpp"
#include "data/file.hpp"
#include "trainer/interchange/exported_weights.hpp"
#include "trainer/interchange/safetensors.hpp"
#include "trainer/interchange/safetensors_format.hpp"
#include "trainer/model/unet.hpp"

namespace perrin::trainer {
namespace {

namespace fs = std::filesystem;

constexpr const char *kVersionKey = "perrin_model", *kVersion = "1", *kShapeKey = "perrin_image_shape",
                     *kConfigKey = "perrin_config";

std::string as_text(const data::ImageShape& shape) {
  return std::to_string(shape.channels) + "x" + std::to_string(shape.height) + "x" + std::to_string(shape.width);
}

data::ImageShape shape_of(const fs::path& path, const std::string& text) {
  unsigned channels = 0, height = 0, width = 0;
  char end = 0;
  if (std::sscanf(text.c_str(), "%9ux%9ux%9u%c", &channels, &height, &width, &end) != 3 ||
      !data::is_plausible(channels, height, width))
    throw data::DataError(path, "says '" + text + "' for the shape of its images; the file is damaged or hostile");
  return {channels, height, width};
}

std::string take(const fs::path& path, std::map<std::string, std::string>& metadata, const char* key) {
  auto found = metadata.extract(key);
  if (!found)
    throw data::DataError(path, std::string("holds tensors alone (no ") + key +
                                    " in its header), which do not say what network they are of; give a file of "
                                    "`perrin export --single-file`, or the diffusers folder that the file is from");
  return found.mapped();
}

}  // namespace

void write_model_file(const fs::path& path, const ModelFile& file, const ModelConfig& model,
                      const DiffusionConfig& diffusion, at::ScalarType type) {
  const auto tensors = exported_weights(
      path, unet_parameters(with_output_channels(model, file.shape, diffusion.variance_type), file.shape), file.weights,
      type);
  if (fs::exists(path))
    throw data::DataError(path, "exists already; nothing was overwritten. Choose another file or remove this one");
  std::map<std::string, std::string> metadata = file.metadata;
  metadata[kVersionKey] = kVersion;
  metadata[kShapeKey] = as_text(file.shape);
  metadata[kConfigKey] = file.config;
  const fs::path unfinished = path.string() + ".tmp-" + std::to_string(getpid());
  try {
    write_safetensors(unfinished, tensors, metadata);
    data::rename_durably(unfinished, path);
  } catch (...) {
    std::error_code ignored;
    fs::remove(unfinished, ignored);
    throw;
  }
}

ModelFile read_model_file(const fs::path& path) {
  ModelFile file;
  file.weights = read_safetensors(path);
  const SafetensorsFile header = SafetensorsFile::read(path);
  std::map<std::string, std::string> metadata = header.metadata();
  if (const std::string version = take(path, metadata, kVersionKey); version != kVersion)
    throw data::DataError(path, "is a model of format " + version + ", this program reads " + kVersion +
                                    "; use the perrin that wrote it");
  file.shape = shape_of(path, take(path, metadata, kShapeKey));
  file.config = take(path, metadata, kConfigKey);
  file.metadata = std::move(metadata);
  return file;
}

}  // namespace perrin::trainer
