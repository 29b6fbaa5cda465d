#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "comm/world.hpp"
#include "data/image_shape.hpp"
#include "trainer/config.hpp"
#include "trainer/diffusion/level_sampler.hpp"
#include "trainer/diffusion/objective.hpp"
#include "trainer/diffusion/process.hpp"
#include "trainer/model/unet.hpp"
#include "trainer/optimize/adam_ema.hpp"
#include "trainer/optimize/gradient_reducer.hpp"
#include "trainer/optimize/parameter_arena.hpp"
#include "trainer/optimize/shard_gather.hpp"
#include "trainer/optimize/slice_plan.hpp"
#include "trainer/progress.hpp"
#include "trainer/step_losses.hpp"
#include "trainer/telemetry/activity_clock.hpp"
#include "trainer/thread_team.hpp"

namespace perrin::trainer {

/// The images of one slice, as they come from a dataset.
struct SliceImages {
  at::Tensor pixels;                         ///< [n, C, H, W] uint8, contiguous
  std::span<const std::uint64_t> positions;  ///< [n] in the endless stream
  at::Tensor mirrored{};                     ///< [n] bool, which to read from right to left; undefined: none
  at::Tensor labels{};                       ///< as ForwardContext has them

  /// Images first .. first + count - 1 of them.
  SliceImages part(std::int64_t first, std::int64_t count) const;
};

/// Into how many parts a rank cuts its images for a team of threads: on the CPU as many as it has threads, but of no
/// fewer than 4 images, which convolutions need to be efficient, and no more than 4, since each has whole gradients of
/// the weights.
std::size_t parts_of_slice(std::int64_t images, int threads, at::Device device);

/// What every step of training does on one rank, wherever its images come from: noise, forward and backward of each
/// slice, then the reduction over the ranks and clip, Adam and EMA. Threads of a rank take a part of each slice's
/// images each (ThreadTeam). It owns no weights; all that it refers to must outlive it.
class TrainingStep {
 public:
  /// @param gradients  of all ranks of the world   @param overlap  buckets leave during backward; false: after it
  /// @throws std::invalid_argument as UNet, SlicePlan and GradientReducer do; comm::CommError. Collective.
  TrainingStep(const Config& config, const data::ImageShape& shape, const DiffusionProcess& process,
               ParameterArena& arena, comm::World& world, comm::Communicator& gradients, bool overlap);

  std::int64_t global_batch() const { return plan_.global_batch(); }
  /// Of this rank, in each global batch.
  const std::vector<Slice>& slices() const { return slices_; }
  /// The network, with its output channels.
  const ModelConfig& network() const { return network_; }
  const LevelSampler& level_sampler() const { return level_sampler_; }
  const GradientReducer& reducer() const { return reducer_; }
  const ShardGather& shards() const { return shards_; }

  /// Losses and gradients of one slice; every slice of a step in its turn, of which the last sends the gradients.
  /// @param slice    index of it   @param first  position of the first image of the global batch
  /// @param history  read by importance sampling alone
  /// @param losses   takes in those of the slice   @param clock  learns what the time is spent on
  /// @throws std::logic_error naming a parameter that received no gradient
  void backward(const SliceImages& images, std::size_t slice, std::uint64_t first, const LossHistory& history,
                StepLosses& losses, ActivityClock& clock);
  /// Ends the reduction and updates the arena. Collective.
  /// @param loss  of the global batch: one that is not finite has no gradient to speak of, and skips the update
  /// @throws comm::CommError
  UpdateOutcome update(double loss, const Progress& progress, ActivityClock& clock);

 private:
  struct Pass;  // forward of a part of a slice

  Pass forward(const SliceImages& images, std::size_t part, std::uint64_t first, const LossHistory& history) const;

  const Config& config_;
  ParameterArena& arena_;
  comm::World& world_;
  ModelConfig network_;
  Objective objective_;
  LevelSampler level_sampler_;
  SlicePlan plan_;
  std::vector<Slice> slices_;
  int threads_;  // of this rank
  ThreadTeam team_;
  GradientReducer reducer_;
  std::vector<UNet> models_;  // for each part
  ShardGather shards_;
  AdamEma optimizer_;
};

}  // namespace perrin::trainer
