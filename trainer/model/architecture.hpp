#pragma once

#include <cstddef>
#include <cstdint>

#include "data/image_shape.hpp"
#include "trainer/config.hpp"

/// What a ModelConfig means for images of one shape; what the network and its export both have to know.
namespace perrin::trainer {

/// @throws std::invalid_argument, naming the key, when the network cannot be built for images of this shape
void check_architecture(const ModelConfig& config, const data::ImageShape& shape);

/// Whether a level has self-attention. @param level  0 is the finest
bool attends(const ModelConfig& config, const data::ImageShape& shape, std::size_t level);

/// Heads of a self-attention of this width.
std::int64_t heads_of(const ModelConfig& config, std::int64_t channels);

/// The same network with out_channels resolved: the images' channels, and as many again for the fractions of
/// learned_range.
/// @throws std::invalid_argument when an out_channels other than 0 contradicts
ModelConfig with_output_channels(ModelConfig config, const data::ImageShape& shape, VarianceType variance);

}  // namespace perrin::trainer
