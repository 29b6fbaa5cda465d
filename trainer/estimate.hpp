#pragma once

#include <cstdint>

#include "data/image_shape.hpp"
#include "trainer/config.hpp"

namespace perrin::trainer {

/// What a run will need, from the configuration alone.
struct Estimate {
  std::int64_t parameters = 0;
  std::int64_t tensors = 0;
  std::int64_t weight_bytes = 0;  ///< of each rank, as are the five below
  std::int64_t gradient_bytes = 0;
  std::int64_t adam_bytes = 0;        ///< both moments
  std::int64_t ema_bytes = 0;         ///< of all EMAs
  std::int64_t part_bytes = 0;        ///< at most, on the CPU: gradients of a slice's parts that wait for each other
  std::int64_t gathered_bytes = 0;    ///< one whole buffer, while sharded state is evaluated; else 0
  std::int64_t staged_bytes = 0;      ///< on the host: the rank's part of a checkpoint that is being written
  std::int64_t checkpoint_bytes = 0;  ///< of one checkpoint: weights, both moments, EMAs
  std::int64_t snapshot_bytes = 0;    ///< of one snapshot of the power-function averages; 0 where none are made
  std::int64_t images_per_rank = 0;   ///< of one global batch, at most
  std::int64_t micro_batch = 0;       ///< images of the largest forward pass of a rank
};

/// @throws std::invalid_argument as UNet and SlicePlan do
Estimate estimate(const Config& config, const data::ImageShape& shape, int ranks);

}  // namespace perrin::trainer
