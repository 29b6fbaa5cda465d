#include "trainer/estimate.hpp"

#include <algorithm>
#include <bit>

#include "trainer/model/architecture.hpp"
#include "trainer/model/unet.hpp"
#include "trainer/optimize/parameter_layout.hpp"
#include "trainer/optimize/slice_plan.hpp"

namespace perrin::trainer {

Estimate estimate(const Config& config, const data::ImageShape& shape, int ranks) {
  const ParameterLayout layout(
      unet_parameters(with_output_channels(config.model, shape, config.diffusion.variance_type), shape),
      at::MemoryFormat::Contiguous);
  const auto buffer = layout.size() * static_cast<std::int64_t>(sizeof(float));
  const auto power_emas = static_cast<std::int64_t>(config.ema.power_sigmas.size());
  const auto emas = static_cast<std::int64_t>(config.ema.decays.size()) + power_emas;
  const auto file = layout.numel() * static_cast<std::int64_t>(sizeof(float));
  Estimate estimate{.parameters = layout.numel(),
                    .tensors = static_cast<std::int64_t>(layout.ranges().size()),
                    .weight_bytes = buffer,
                    .gradient_bytes = buffer,
                    .adam_bytes = 2 * buffer,
                    .ema_bytes = emas * buffer,
                    .checkpoint_bytes = (3 + emas) * file,
                    .snapshot_bytes = config.ema.snapshot_every > 0 ? power_emas * file : 0};
  const SlicePlan plan(config, ranks);
  if (config.distributed.reduction == Reduction::reproducible) {
    // A partial sum for each level of the tree of a rank's shards, and a copy of the buckets in exchange.
    const auto levels = std::bit_width(static_cast<std::uint64_t>(plan.slices_of(0).size())) - 1;
    estimate.gradient_bytes += (levels + (ranks > 1 ? 2 : 0)) * buffer;
  }
  for (int rank = 0; rank < ranks; ++rank) {
    std::int64_t share = 0;
    for (const Slice& slice : plan.slices_of(rank)) {
      share += slice.count;
      estimate.micro_batch = std::max(estimate.micro_batch, slice.count);
    }
    estimate.images_per_rank = std::max(estimate.images_per_rank, share);
  }
  return estimate;
}

}  // namespace perrin::trainer
