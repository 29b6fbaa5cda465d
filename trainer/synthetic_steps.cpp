#include "trainer/synthetic_steps.hpp"

#include <algorithm>
#include <numeric>

#include "trainer/images.hpp"
#include "trainer/model/architecture.hpp"
#include "trainer/precision.hpp"
#include "trainer/step_losses.hpp"
#include "trainer/telemetry/operator_scope.hpp"

namespace perrin::trainer {
namespace {

std::vector<std::uint8_t> synthetic_pixels(std::size_t bytes) {
  std::vector<std::uint8_t> pixels(bytes);
  for (std::size_t k = 0; k < bytes; ++k)
    pixels[k] = static_cast<std::uint8_t>((2654435761U * static_cast<std::uint32_t>(k)) >> 24U);
  return pixels;
}

}  // namespace

SyntheticSteps::SyntheticSteps(const Config& config, const data::ImageShape& shape, comm::World& world,
                               at::Device device)
    : config_(config),
      shape_(shape),
      world_(world),
      process_(NoiseSchedule(config.diffusion), device),
      history_(config.objective.timesteps == TimestepSampling::importance ? config.diffusion.timesteps : 0),
      arena_(unet_parameters(with_output_channels(config.model, shape, config.diffusion.variance_type), shape),
             config.ema.decays.size() + config.ema.power_sigmas.size(), config.run.seed, device,
             shard_options(config, world.rank(), world.size()), compute_type(config.train.precision, device)),
      pixels_(synthetic_pixels(kSyntheticImages * shape.bytes())) {}

void SyntheticSteps::connect(comm::Communicator& gradients, bool overlap) {
  step_.reset();  // the reducer of the one before leaves its hooks first
  step_.emplace(config_, shape_, process_, arena_, world_, gradients, overlap);
}

double SyntheticSteps::step(ActivityClock& clock) {
  StepLosses losses(step_->global_batch(), /*keep_each=*/false);
  for (std::size_t i = 0; i < step_->slices().size(); ++i) {
    const Slice& slice = step_->slices()[i];
    clock.enter(Activity::load);
    std::vector<std::uint64_t> positions(static_cast<std::size_t>(slice.count));
    std::iota(positions.begin(), positions.end(), progress_.position + static_cast<std::uint64_t>(slice.offset));
    clock.enter(Activity::forward);
    const std::vector<std::uint8_t> pixels = pixels_at(positions);
    step_->backward({.pixels = to_pixel_batch(pixels, shape_, arena_.device()), .positions = positions}, i,
                    progress_.position, history_, losses, clock);
  }
  clock.enter(Activity::agreement);
  Votes votes;
  losses.add_up(world_.control(), votes);
  const UpdateOutcome outcome = step_->update(losses.loss(), progress_, clock);
  clock.leave();
  ++progress_.step;
  progress_.updates += outcome.skipped ? 0 : 1;
  progress_.position += static_cast<std::uint64_t>(step_->global_batch());
  return losses.loss();
}

std::vector<std::uint8_t> SyntheticSteps::pixels_at(const std::vector<std::uint64_t>& positions) const {
  const OperatorScope scope("input");
  std::vector<std::uint8_t> batch(positions.size() * shape_.bytes());
  for (std::size_t i = 0; i < positions.size(); ++i)
    std::copy_n(pixels_.begin() + static_cast<std::ptrdiff_t>(positions[i] % kSyntheticImages * shape_.bytes()),
                shape_.bytes(), batch.begin() + static_cast<std::ptrdiff_t>(i * shape_.bytes()));
  return batch;
}

}  // namespace perrin::trainer
