#include "trainer/evaluate/model_denoiser.hpp"

#include <ATen/ATen.h>

#include <utility>
#include <vector>

namespace perrin::trainer {

Network network_of(const UNet& model, at::Tensor labels) {
  return [&model, labels = std::move(labels)](const at::Tensor& x, const at::Tensor& condition) {
    return model(x, condition, {.labels = labels});
  };
}

Denoiser model_denoiser(const UNet& model, const Config& config, std::shared_ptr<const NoiseSchedule> schedule,
                        at::Tensor labels) {
  return make_denoiser(network_of(model, std::move(labels)), config.diffusion.prediction, config.edm.sigma_data,
                       std::move(schedule));
}

Denoiser sampling_denoiser(const UNet& model, const Config& config, std::shared_ptr<const NoiseSchedule> schedule,
                           at::Tensor labels) {
  const SampleConfig& sample = config.sample;
  Denoiser denoiser = model_denoiser(model, config, schedule, labels);
  if (labels.defined())
    denoiser = with_guidance(denoiser, model_denoiser(model, config, schedule, at::full_like(labels, -1)),
                             sample.guidance, sample.guidance_sigma_min, sample.guidance_sigma_max);
  return with_clipped_x0(std::move(denoiser), sample.clip, sample.clip_percentile);
}

at::Tensor sampling_labels(const Config& config, std::span<const std::uint64_t> indices, at::Device device) {
  if (config.model.num_classes == 0) return {};
  const auto& classes = config.sample.classes;
  std::vector<std::int64_t> labels;
  for (const std::uint64_t index : indices)
    labels.push_back(classes.empty() ? static_cast<std::int64_t>(index) % config.model.num_classes
                                     : classes[index % classes.size()]);
  return at::tensor(labels, at::kLong).to(device);
}

}  // namespace perrin::trainer
