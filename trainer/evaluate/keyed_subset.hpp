#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace perrin::trainer {

/// What a random subset of images is for: part of its key.
enum class SubsetOf : std::uint32_t { kid_samples = 0, kid_reference = 1, extrapolation = 2 };

/// `size` different numbers below n, in random order: the first steps of a Fisher-Yates shuffle, keyed by (purpose,
/// number) under one seed for all runs, so that two evaluations take the same rows. No state; the subset of any number
/// can be made alone.
/// @return [size] int64
/// @throws std::invalid_argument unless 0 <= size <= n
at::Tensor keyed_subset(SubsetOf purpose, std::uint32_t number, std::int64_t n, std::int64_t size);

}  // namespace perrin::trainer
