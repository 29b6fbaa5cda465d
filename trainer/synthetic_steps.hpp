#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <span>
#include <vector>

#include "comm/world.hpp"
#include "data/image_shape.hpp"
#include "trainer/config.hpp"
#include "trainer/diffusion/level_sampler.hpp"
#include "trainer/diffusion/objective.hpp"
#include "trainer/model/unet.hpp"
#include "trainer/optimize/adam_ema.hpp"
#include "trainer/optimize/parameter_arena.hpp"
#include "trainer/optimize/slice_plan.hpp"
#include "trainer/random/stream.hpp"
#include "trainer/telemetry/activity_clock.hpp"

namespace perrin::trainer {

/// The step of a training over images made up, for measuring: no dataset, no files.
class SyntheticSteps {
 public:
  /// @throws std::invalid_argument as UNet and SlicePlan do
  SyntheticSteps(const Config& config, const data::ImageShape& shape, comm::World& world, at::Device device);

  /// Collective.
  /// @param number     from 1   @param gradients  of all ranks of the world
  /// @param overlap    buckets leave during backward; false: after it
  /// @param clock      learns what the time is spent on
  /// @throws comm::CommError
  void step(std::int64_t number, comm::Communicator& gradients, bool overlap, ActivityClock& clock);

  std::int64_t parameters() const { return arena_.layout().numel(); }
  std::size_t gradient_bytes() const { return static_cast<std::size_t>(arena_.plan().size()) * sizeof(float); }
  std::size_t buckets() const { return arena_.plan().buckets().size(); }

 private:
  at::Tensor normals(Purpose purpose, std::span<const std::uint64_t> positions) const;

  const Config& config_;
  data::ImageShape shape_;
  comm::World& world_;
  at::Device device_;
  ModelConfig network_;
  DiffusionProcess process_;
  Objective objective_;
  LevelSampler level_sampler_;
  LossHistory history_;
  ParameterArena arena_;
  UNet model_;
  SlicePlan plan_;
  std::vector<Slice> slices_;
  AdamEma optimizer_;
  std::int64_t updates_ = 0;
};

}  // namespace perrin::trainer
