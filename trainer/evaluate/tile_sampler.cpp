#include "trainer/evaluate/tile_sampler.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

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

/// Members of a team that draws batches of that size.
int members_for(std::int64_t batch_size, at::Device device) {
  if (!device.is_cpu()) return 1;
  const auto tiles = static_cast<std::int64_t>(sample_tiles(0, batch_size, batch_size, device).size());
  return static_cast<int>(std::min<std::int64_t>(tiles, at::get_num_threads()));
}

}  // namespace

TileSampler::TileSampler(const UNet& model, const Config& config, const data::ImageShape& shape, at::Device device)
    : model_(model),
      config_(config),
      schedule_(std::make_shared<const NoiseSchedule>(config.diffusion)),
      sample_(within_schedule(config.sample, config.diffusion.prediction, *schedule_)),
      shape_(shape),
      device_(device),
      team_(static_cast<std::size_t>(members_for(config.sample.batch_size, device)),
            at::get_num_threads()) {}

std::vector<DrawnTile> TileSampler::draw(std::int64_t first, std::int64_t count, const Observer& observe) {
  const at::NoGradGuard no_grad;
  const std::vector<SampleTile> tiles = sample_tiles(first, count, config_.sample.batch_size, device_);
  std::vector<DrawnTile> drawn(tiles.size());
  team_.run(tiles.size(), [&](std::size_t i) {
    drawn[i] = {tiles[i], to_pixels(draw_tile(tiles[i], i, observe)).contiguous()};
  });
  return drawn;
}

at::Tensor TileSampler::draw_tile(const SampleTile& tile, std::size_t number, const Observer& observe) const {
  std::vector<std::uint64_t> indices(static_cast<std::size_t>(tile.images));
  std::iota(indices.begin(), indices.end(), static_cast<std::uint64_t>(tile.first));
  const auto normals = [&](Purpose purpose, std::int64_t step) {
    const Stream stream{.seed = config_.sample.seed, .purpose = purpose, .step = static_cast<std::uint32_t>(step)};
    return keyed_normal(stream, indices, {shape_.channels, shape_.height, shape_.width}).to(device_);
  };
  const StepNoise noise = [&](std::int64_t step) { return normals(Purpose::sampling_noise, step); };
  const Denoiser denoiser = sampling_denoiser(model_, config_, schedule_, sampling_labels(config_, indices, device_));
  const Denoiser observed = [&](const at::Tensor& x, const NoiseLevel& level) {
    Prediction prediction = denoiser(x, level);
    if (observe) observe(number, prediction.x0);
    return prediction;
  };
  return sample_from(observed, *schedule_, sample_, config_.diffusion.variance_type,
                     normals(Purpose::sampling_start, 0), noise);
}

}  // namespace perrin::trainer
