#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "trainer/random/stream.hpp"

/// Random tensors whose row i is a pure function of (stream, positions[i]): the same for any split of a batch over
/// ranks, micro-batches or threads. All are made on the CPU, contiguous, without grad; copy them to the device where
/// they are needed.
namespace perrin::trainer {

/// Standard normals.
/// @param sample_shape  shape of one sample, e.g. {C, H, W}
/// @return [N, sample_shape...] float32
at::Tensor keyed_normal(const Stream& stream, std::span<const std::uint64_t> positions, at::IntArrayRef sample_shape);

/// One number uniform in (0, 1): the middle of one of 2^52 equal parts.
double keyed_uniform(const Stream& stream, std::uint64_t position);

/// Fair coins. @return [N] bool
at::Tensor keyed_flips(const Stream& stream, std::span<const std::uint64_t> positions);

/// Dropout factors: 1 / keep with probability keep (to 2^-32), else 0.
/// @param keep  in (0, 1]; std::invalid_argument otherwise
/// @return [N, sample_shape...] float32
at::Tensor keyed_dropout(const Stream& stream, std::span<const std::uint64_t> positions, at::IntArrayRef sample_shape,
                         double keep);

}  // namespace perrin::trainer
