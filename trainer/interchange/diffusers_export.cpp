#include "trainer/interchange/diffusers_export.hpp"

#include <ATen/ATen.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <string_view>
#include <system_error>

#include "data/data_error.hpp"
#include "data/file.hpp"
#include "trainer/interchange/diffusers_config.hpp"
#include "trainer/interchange/exported_weights.hpp"
#include "trainer/interchange/pipeline_source.hpp"
#include "trainer/interchange/safetensors.hpp"
#include "trainer/model/architecture.hpp"
#include "trainer/model/unet.hpp"

namespace perrin::trainer {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

void write_json(const fs::path& path, const Json& json) { data::write_file_durably(path, json.dump(2) + "\n"); }

// A folder under a temporary name, removed again unless it was published.
class UnpublishedFolder {
 public:
  explicit UnpublishedFolder(const fs::path& final)
      : final_(final), path_(final.string() + ".tmp-" + std::to_string(getpid())) {
    std::error_code error;
    fs::create_directories(path_ / "unet", error);
    if (!error) {
      fs::create_directories(path_ / "scheduler", error);
    }
    if (error) {
      throw data::DataError(path_, "cannot be made (" + error.message() + "); choose a folder that you may write");
    }
  }
  UnpublishedFolder(const UnpublishedFolder&) = delete;
  UnpublishedFolder& operator=(const UnpublishedFolder&) = delete;
  ~UnpublishedFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);  // nothing is there after publish()
  }

  const fs::path& path() const { return path_; }

  void publish() {
    data::sync_folder(path_ / "unet");
    data::sync_folder(path_ / "scheduler");
    data::sync_folder(path_);
    data::rename_durably(path_, final_);
  }

 private:
  fs::path final_;
  fs::path path_;
};

}  // namespace

void export_diffusers(const fs::path& folder, const ModelConfig& config, const DiffusionConfig& diffusion,
                      const data::ImageShape& shape, const std::map<std::string, at::Tensor>& weights,
                      const ExportOptions& options) {
  const ModelConfig model = with_output_channels(config, shape, diffusion.variance_type);
  check_expressible(folder, model, diffusion, shape);
  std::map<std::string, at::Tensor> tensors =
      exported_weights(folder, unet_parameters(model, shape), weights, options.type);
  if (has_null_class(model)) {
    at::Tensor& classes = tensors.at("class_embedding.weight");
    classes = at::constant_pad_nd(classes, {0, 0, 0, 1});
  }
  const fs::path final =
      fs::absolute(folder / "").parent_path();  // without a trailing slash, whose temporary name would lie inside
  if (fs::exists(final)) {
    throw data::DataError(final, "exists already; nothing was overwritten. Choose another folder or remove this one");
  }
  UnpublishedFolder unpublished(final);
  const fs::path& path = unpublished.path();
  write_json(path / "model_index.json", model_index(model));
  write_json(path / "unet" / "config.json", unet_config(model, shape));
  write_safetensors(path / "unet" / "diffusion_pytorch_model.safetensors", tensors, options.metadata);
  write_json(path / "scheduler" / "scheduler_config.json", scheduler_config(diffusion));
  data::write_file_durably(path / "README.md", std::string_view(model_card(options.facts, model, diffusion)));
  if (needs_own_pipeline(model, diffusion)) data::write_file_durably(path / "pipeline.py", kPipelineSource);
  unpublished.publish();
}

}  // namespace perrin::trainer
