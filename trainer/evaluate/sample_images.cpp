#include "trainer/evaluate/sample_images.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>
#include <numeric>
#include <vector>

#include "trainer/deadlines.hpp"
#include "trainer/diffusion/samplers.hpp"
#include "trainer/evaluate/model_denoiser.hpp"
#include "trainer/images.hpp"
#include "trainer/random/keyed_noise.hpp"
#include "trainer/run_error.hpp"

namespace perrin::trainer {
namespace {

/// The run's sampler; a discrete network knows no noise level outside its schedule.
/// @throws RunError where nothing is left
SampleConfig within_schedule(SampleConfig sample, PredictionType prediction, const NoiseSchedule& schedule) {
  if (prediction == PredictionType::edm) return sample;
  const auto sigma_at = [&](std::int64_t t) { return std::sqrt(1 / schedule.snr(t)); };
  sample.sigma_min = std::max(sample.sigma_min, sigma_at(0));
  sample.sigma_max = std::min(sample.sigma_max, sigma_at(schedule.timesteps() - 1));
  if (sample.sampler == Sampler::heun && sample.sigma_min >= sample.sigma_max)
    throw RunError(
        fmt::format("sample.sigma_min and sample.sigma_max leave nothing of the network's noise levels, {:.3g} "
                    "to {:.4g}; choose them within",
                    sigma_at(0), sigma_at(schedule.timesteps() - 1)));
  // Churn raises a level by the root of 2 at most, and must not raise it out of the schedule.
  const double highest = sample.sigma_max / std::numbers::sqrt2;
  sample.churn_max = sample.churn_max > 0 ? std::min(sample.churn_max, highest) : highest;
  return sample;
}

}  // namespace

at::Tensor draw_tile(const UNet& model, const Config& config, const std::shared_ptr<const NoiseSchedule>& schedule,
                     const SampleTile& tile, const data::ImageShape& shape, at::Device device,
                     const Observer& observe) {
  std::vector<std::uint64_t> indices(static_cast<std::size_t>(tile.images));
  std::iota(indices.begin(), indices.end(), static_cast<std::uint64_t>(tile.first));
  const auto normals = [&](Purpose purpose, std::int64_t step) {
    const Stream stream{.seed = config.sample.seed, .purpose = purpose, .step = static_cast<std::uint32_t>(step)};
    return keyed_normal(stream, indices, {shape.channels, shape.height, shape.width}).to(device);
  };
  const StepNoise noise = [&](std::int64_t step) { return normals(Purpose::sampling_noise, step); };
  const Denoiser denoiser = sampling_denoiser(model, config, schedule, sampling_labels(config, indices, device));
  const Denoiser observed = [&](const at::Tensor& x, const NoiseLevel& level) {
    Prediction prediction = denoiser(x, level);
    if (observe) observe(prediction.x0);
    return prediction;
  };
  return sample_from(observed, *schedule, within_schedule(config.sample, config.diffusion.prediction, *schedule),
                     config.diffusion.variance_type, normals(Purpose::sampling_start, 0), noise);
}

std::optional<at::Tensor> sample_images(const UNet& model, const Config& config, const data::ImageShape& shape,
                                        comm::Communicator& control, at::Device device, const Interrupt& interrupt) {
  const at::NoGradGuard no_grad;
  const auto schedule = std::make_shared<const NoiseSchedule>(config.diffusion);
  const std::int64_t images = config.sample.rows * config.sample.columns, size = config.sample.batch_size,
                     batches = (images + size - 1) / size;
  at::Tensor pixels = at::zeros({images, shape.channels, shape.height, shape.width}, at::kByte);

  for (std::int64_t round = 0; round * control.size() < batches; ++round) {
    if (interrupt && interrupt()) return std::nullopt;
    const std::int64_t batch = round * control.size() + control.rank();
    if (batch >= batches) continue;
    const std::int64_t first = batch * size, count = std::min(size, images - first);
    for (const SampleTile& tile : sample_tiles(first, count, size, device))
      pixels.narrow(0, tile.first + tile.skipped, tile.wanted)
          .copy_(tile.wanted_of(to_pixels(draw_tile(model, config, schedule, tile, shape, device))));
  }
  // Every image is zero on all ranks but the one that drew it, so the largest value is the image.
  control
      .all_reduce(std::span(pixels.mutable_data_ptr<std::uint8_t>(), static_cast<std::size_t>(pixels.numel())),
                  comm::ReduceOp::max)
      .wait(kLongWork);  // ranks may have one batch more or less
  return pixels;
}

at::Tensor sample_progression(const UNet& model, const Config& config, const data::ImageShape& shape, at::Device device,
                              std::int64_t images, std::int64_t pictures) {
  const at::NoGradGuard no_grad;
  const auto schedule = std::make_shared<const NoiseSchedule>(config.diffusion);
  std::vector<at::Tensor> strips;
  for (const SampleTile& tile : sample_tiles(0, images, config.sample.batch_size, device)) {
    std::vector<at::Tensor> states;
    const Observer observe = [&](const at::Tensor& x0) { states.push_back(tile.wanted_of(to_pixels(x0))); };
    const at::Tensor drawn = draw_tile(model, config, schedule, tile, shape, device, observe);
    const auto evaluations = static_cast<std::int64_t>(states.size());
    std::vector<at::Tensor> chosen;
    for (std::int64_t i = 0; i + 1 < pictures; ++i)
      chosen.push_back(states[static_cast<std::size_t>(i * evaluations / (pictures - 1))]);
    chosen.push_back(tile.wanted_of(to_pixels(drawn)));
    strips.push_back(at::stack(chosen, 1));
  }
  return at::cat(strips).flatten(0, 1);
}

}  // namespace perrin::trainer
