#include "trainer/interchange/diffusers_import.hpp"

#include <ATen/ATen.h>

#include <array>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

#include "data/data_error.hpp"
#include "trainer/interchange/diffusers_config_reader.hpp"
#include "trainer/interchange/imported_weights.hpp"
#include "trainer/interchange/safetensors.hpp"
#include "trainer/model/unet.hpp"

namespace perrin::trainer {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kWeights = "diffusion_pytorch_model";
constexpr const char *kIndex = "model_index.json", *kNetworkConfig = "config.json",
                     *kSchedulerConfig = "scheduler_config.json";
// Of guidance; how often labels were left out is in no file of diffusers, and only further training asks.
constexpr double kUsualLabelDropout = 0.1;

/// The file of a part of the pipeline: in the part's own folder, or beside the others.
fs::path find_part(const fs::path& folder, const char* part, const char* file) {
  for (const fs::path& candidate : {folder / part / file, folder / file})
    if (fs::is_regular_file(candidate)) return candidate;
  throw data::DataError(folder,
                        std::string("has neither ") + part + "/" + file + " nor " + file +
                            "; save the whole pipeline in Python (pipeline.save_pretrained), and give its folder");
}

/// The file of the weights in the folder of the network: the plain one, or the only variant there is.
fs::path find_weights(const fs::path& folder) {
  const fs::path plain = folder / (std::string(kWeights) + ".safetensors");
  if (fs::is_regular_file(plain)) return plain;
  std::vector<fs::path> variants;
  bool pickle = false;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kWeights)) continue;
    if (name.ends_with(".safetensors.index.json"))
      throw data::DataError(entry.path(),
                            "says that the weights lie in several files, which perrin does not put "
                            "together; save the model again with a larger max_shard_size");
    if (name.ends_with(".safetensors")) variants.push_back(entry.path());
    pickle = pickle || name.ends_with(".bin");
  }
  if (variants.size() == 1) return variants.front();
  if (variants.size() > 1)
    throw data::DataError(
        folder, "holds several variants of the weights; rename the one you mean to " + plain.filename().string());
  if (pickle)
    throw data::DataError(folder,
                          "has its weights in a .bin file, a pickle, which can run any code when it is opened, "
                          "and is refused; where you trust it, convert it in Python: "
                          "DDPMPipeline.from_pretrained(FOLDER, use_safetensors=False).save_pretrained(NEW)");
  throw data::DataError(folder, "holds no " + plain.filename().string() + "; the model is incomplete: save it again");
}

/// Names of attention before diffusers 0.18, which it renames on load too.
std::map<std::string, at::Tensor> with_new_names(const fs::path& file, std::map<std::string, at::Tensor> tensors) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 4> kRenamed{
      {{".query.", ".to_q."}, {".key.", ".to_k."}, {".value.", ".to_v."}, {".proj_attn.", ".to_out.0."}}};
  std::map<std::string, at::Tensor> renamed;
  for (auto& [name, tensor] : tensors) {
    std::string new_name = name;
    for (const auto& [before, after] : kRenamed)
      if (const auto at = name.find(before); name.find(".attentions.") != std::string::npos && at != std::string::npos)
        new_name.replace(at, before.size(), after);
    if (!renamed.emplace(new_name, std::move(tensor)).second)
      throw data::DataError(file, "holds '" + new_name + "' under its old name too; the file is damaged or hostile");
  }
  return renamed;
}

/// The last class becomes none where its vector is 0, which no training makes.
void take_null_class(ImportedModel& imported) {
  const auto classes = imported.weights.find("class_embedding.weight");
  if (classes == imported.weights.end()) return;
  const std::int64_t last = classes->second.size(0) - 1;
  if (last < 1 || classes->second[last].any().item<bool>()) return;
  classes->second = classes->second.narrow(0, 0, last).clone();
  imported.config.model.num_classes = last;
  imported.config.model.label_dropout = kUsualLabelDropout;
}

}  // namespace

bool is_diffusers_folder(const fs::path& folder) {
  return fs::is_regular_file(folder / kIndex) || fs::is_regular_file(folder / kNetworkConfig);
}

ImportedModel import_diffusers(const fs::path& folder) {
  const fs::path network_file = find_part(folder, "unet", kNetworkConfig);
  const NetworkDescription network = read_unet_config(network_file);
  const ProcessDescription process = read_scheduler_config(find_part(folder, "scheduler", kSchedulerConfig));

  ImportedModel imported{.config = {}, .shape = network.shape, .weights = {}};
  imported.config.model = network.model;
  imported.config.diffusion = process.diffusion;
  if (process.diffusion.variance_type == VarianceType::learned_range)
    imported.config.objective.loss = LossType::hybrid;  // the one that such a network is usually trained with
  imported.config.sample.clip = process.clip;
  imported.config.sample.clip_percentile = process.clip_percentile;
  try {
    with_output_channels(network.model, network.shape, process.diffusion.variance_type);
  } catch (const std::invalid_argument&) {
    throw data::DataError(network_file, "'out_channels' is " + std::to_string(network.model.out_channels) +
                                            ", which does not suit the scheduler's variance_type: the images' channels "
                                            "for a fixed variance, twice as many for learned_range");
  }
  const fs::path weights_file = find_weights(network_file.parent_path());
  imported.weights = imported_weights(weights_file, unet_parameters(network.model, network.shape),
                                      with_new_names(weights_file, read_safetensors(weights_file)));
  take_null_class(imported);
  imported.config.model.out_channels = 0;  // that of the variance type
  return imported;
}

}  // namespace perrin::trainer
