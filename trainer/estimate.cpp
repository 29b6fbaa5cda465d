#include "trainer/estimate.hpp"

#include <algorithm>
#include <bit>
#include <limits>

#include "trainer/model/architecture.hpp"
#include "trainer/model/unet.hpp"
#include "trainer/optimize/parameter_layout.hpp"
#include "trainer/optimize/shard_plan.hpp"
#include "trainer/optimize/slice_plan.hpp"
#include "trainer/training_step.hpp"

namespace perrin::trainer {

Estimate estimate(const Config& config, const data::ImageShape& shape, int ranks) {
  const ParameterLayout layout(
      unet_parameters(with_output_channels(config.model, shape, config.diffusion.variance_type), shape),
      at::MemoryFormat::Contiguous);
  const ShardPlan shards(layout, shard_options(config, 0, ranks));
  const auto buffer = shards.size() * static_cast<std::int64_t>(sizeof(float));
  const auto state = shards.state_size() * static_cast<std::int64_t>(sizeof(float));
  const auto power_emas = static_cast<std::int64_t>(config.ema.power_sigmas.size());
  const auto emas = static_cast<std::int64_t>(config.ema.decays.size()) + power_emas;
  const auto file = layout.numel() * static_cast<std::int64_t>(sizeof(float));
  Estimate estimate{
      .parameters = layout.numel(),
      .tensors = static_cast<std::int64_t>(layout.ranges().size()),
      .weight_bytes = config.train.precision == Precision::fp32 ? buffer : buffer + buffer / 2,  // a copy in bf16
      .gradient_bytes = buffer,
      .adam_bytes = 2 * state,
      .ema_bytes = emas * state,
      .gathered_bytes = shards.sharded() ? buffer : 0,
      .staged_bytes = (3 + emas) * buffer / ranks,
      .checkpoint_bytes = (3 + emas) * file,
      .snapshot_bytes = config.ema.snapshot_every > 0 ? power_emas * file : 0};
  const SlicePlan plan(config, ranks);
  estimate.micro_batch = plan.largest_slice();
  if (config.distributed.device != DeviceChoice::cuda) {
    constexpr int kAnyNumber = std::numeric_limits<int>::max();
    const int threads = config.distributed.threads > 0 ? static_cast<int>(config.distributed.threads) : kAnyNumber;
    const std::size_t parts = parts_of_slice(plan.largest_slice(), threads, at::kCPU);
    estimate.part_bytes = static_cast<std::int64_t>(parts - 1) * buffer;
  }
  const bool reproducible = config.distributed.reduction == Reduction::reproducible;
  const bool bf16 = config.distributed.wire == Wire::bf16;
  // A partial sum for each level of the tree of a rank's shards.
  if (reproducible)
    estimate.gradient_bytes += (std::bit_width(static_cast<std::uint64_t>(plan.slices_of(0).size())) - 1) * buffer;
  // What the others send, in fp32; or in bf16 with what is sent.
  if (ranks > 1 && (reproducible || bf16)) estimate.gradient_bytes += buffer;
  for (int rank = 0; rank < ranks; ++rank) {
    std::int64_t share = 0;
    for (const Slice& slice : plan.slices_of(rank)) share += slice.count;
    estimate.images_per_rank = std::max(estimate.images_per_rank, share);
  }
  return estimate;
}

}  // namespace perrin::trainer
