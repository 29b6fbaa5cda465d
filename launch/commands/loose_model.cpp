#include "launch/commands/loose_model.hpp"

#include <charconv>
#include <stdexcept>
#include <utility>

#include "data/data_error.hpp"
#include "launch/config/read.hpp"
#include "launch/config/resolved.hpp"
#include "trainer/interchange/diffusers_import.hpp"
#include "trainer/interchange/imported_weights.hpp"
#include "trainer/interchange/model_file.hpp"
#include "trainer/model/unet.hpp"

namespace perrin::launch {
namespace {

namespace fs = std::filesystem;

LooseModel from_diffusers(const fs::path& folder) {
  trainer::ImportedModel imported = trainer::import_diffusers(folder);
  return {.config = resolved_toml(imported.config),
          .shape = imported.shape,
          .weights = std::move(imported.weights),
          .weights_name = "imported",
          .dataset_fingerprint = {}};
}

std::string text_of(const trainer::ModelFile& file, const std::string& key, const std::string& absent) {
  const auto found = file.metadata.find(key);
  return found == file.metadata.end() ? absent : found->second;
}

LooseModel from_file(const fs::path& path) {
  trainer::ModelFile file = trainer::read_model_file(path);
  const trainer::Config config = read_config_text(file.config, path.string() + " (config)");
  LooseModel model{.config = file.config,
                   .shape = file.shape,
                   .weights = {},
                   .weights_name = text_of(file, "perrin_weights", "imported"),
                   .dataset_fingerprint = text_of(file, "perrin_dataset", "")};
  const std::string step = text_of(file, "perrin_step", "0");
  std::from_chars(step.data(), step.data() + step.size(), model.step);
  try {
    const trainer::ModelConfig network =
        trainer::with_output_channels(config.model, file.shape, config.diffusion.variance_type);
    model.weights =
        trainer::imported_weights(path, trainer::unet_parameters(network, file.shape), std::move(file.weights));
  } catch (const std::invalid_argument& error) {
    throw data::DataError(path, std::string("describes a network that cannot be built: ") + error.what());
  }
  return model;
}

}  // namespace

bool is_loose_model(const fs::path& path) { return fs::is_regular_file(path) || trainer::is_diffusers_folder(path); }

LooseModel read_loose_model(const fs::path& path) {
  return fs::is_regular_file(path) ? from_file(path) : from_diffusers(path);
}

}  // namespace perrin::launch
