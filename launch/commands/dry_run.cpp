#include "launch/commands/dry_run.hpp"

#include <fmt/format.h>

#include "launch/config/resolved.hpp"

namespace perrin::launch {
namespace {

std::string mebibytes(std::int64_t bytes) {
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1024.0 * 1024.0));
}

/// Of the buffers of a rank; gathered ones come and go.
std::string memory_of(const trainer::Estimate& e) {
  std::string parts =
      fmt::format("{} (weights {}, gradients {}, Adam {}, EMA {})",
                  mebibytes(e.weight_bytes + e.gradient_bytes + e.adam_bytes + e.ema_bytes), mebibytes(e.weight_bytes),
                  mebibytes(e.gradient_bytes), mebibytes(e.adam_bytes), mebibytes(e.ema_bytes));
  if (e.gathered_bytes > 0) parts += fmt::format(", {} more while it evaluates", mebibytes(e.gathered_bytes));
  parts += fmt::format(", {} on the host for checkpoints", mebibytes(e.staged_bytes));
  return parts;
}

}  // namespace

std::string dry_run_report(const trainer::Config& config, const trainer::Estimate& estimate, std::uint64_t images,
                           const data::ImageShape& shape, int ranks) {
  const auto& e = estimate;
  const double steps_per_epoch = static_cast<double>(images) / static_cast<double>(config.train.batch_size);
  std::string text = resolved_toml(config) + "\n";
  text += fmt::format("# {} parameters in {} tensors, for images of {}x{}x{}\n", e.parameters, e.tensors,
                      shape.channels, shape.height, shape.width);
  text += fmt::format("# memory of each rank: {}, and the activations of {} images\n", memory_of(e), e.micro_batch);
  if (e.part_bytes > 0)
    text += fmt::format("# threads of the CPU: up to {} more for gradients of the parts that they take\n",
                        mebibytes(e.part_bytes));
  if (ranks > 1) {
    trainer::Config other = config;
    other.optimizer.shard = !config.optimizer.shard;
    text += fmt::format("# with optimizer.shard = {}: {}\n", other.optimizer.shard,
                        memory_of(trainer::estimate(other, shape, ranks)));
  }
  text += fmt::format("# step: {} images on {} rank{}, at most {} each and {} in one forward pass\n",
                      config.train.batch_size, ranks, ranks == 1 ? "" : "s", e.images_per_rank, e.micro_batch);
  text += fmt::format("# data: {} images, {} of pixels{}; {:.1f} steps an epoch, {:.2f} epochs in {} steps\n", images,
                      mebibytes(static_cast<std::int64_t>(images * shape.bytes())),
                      config.data.resident ? " in the memory of each rank's device" : "", steps_per_epoch,
                      static_cast<double>(config.train.steps) / steps_per_epoch, config.train.steps);
  text += fmt::format("# checkpoint: {} each, {} kept\n", mebibytes(e.checkpoint_bytes), config.checkpoint.keep);
  if (e.snapshot_bytes > 0)
    text += fmt::format("# snapshots: {} each, all {} kept\n", mebibytes(e.snapshot_bytes),
                        config.train.steps / config.ema.snapshot_every);
  return text;
}

}  // namespace perrin::launch
