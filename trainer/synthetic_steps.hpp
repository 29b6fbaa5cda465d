#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "comm/world.hpp"
#include "data/image_shape.hpp"
#include "trainer/config.hpp"
#include "trainer/diffusion/process.hpp"
#include "trainer/model/unet.hpp"
#include "trainer/optimize/parameter_arena.hpp"
#include "trainer/progress.hpp"
#include "trainer/telemetry/activity_clock.hpp"
#include "trainer/training_step.hpp"

namespace perrin::trainer {

/// The steps of a training over images made up, for measuring: no dataset, no files. Byte k of all images, which are
/// kSyntheticImages and come in turn, is the highest byte of 2654435761 k mod 2^32, so that other programs can make the
/// same ones.
class SyntheticSteps {
 public:
  static constexpr std::uint64_t kSyntheticImages = 512;

  /// @throws std::invalid_argument as UNet and SlicePlan do
  SyntheticSteps(const Config& config, const data::ImageShape& shape, comm::World& world, at::Device device);

  /// To be called before the first step, and for a change. Collective.
  /// @param gradients  of all ranks of the world   @param overlap  buckets leave during backward; false: after it
  /// @throws comm::CommError
  void connect(comm::Communicator& gradients, bool overlap);

  /// Collective.
  /// @param clock  learns what the time is spent on
  /// @return the loss of the global batch
  /// @throws comm::CommError
  double step(ActivityClock& clock);

  std::int64_t parameters() const { return arena_.layout().numel(); }
  std::size_t gradient_bytes() const { return static_cast<std::size_t>(arena_.plan().size()) * sizeof(float); }
  std::size_t buckets() const { return arena_.plan().buckets().size(); }
  ParameterArena& arena() { return arena_; }

 private:
  /// The bytes of their images.
  std::vector<std::uint8_t> pixels_at(const std::vector<std::uint64_t>& positions) const;

  const Config& config_;
  data::ImageShape shape_;
  comm::World& world_;
  DiffusionProcess process_;
  LossHistory history_;
  ParameterArena arena_;
  std::vector<std::uint8_t> pixels_;
  std::optional<TrainingStep> step_;
  Progress progress_;
};

}  // namespace perrin::trainer
