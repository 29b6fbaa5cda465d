#pragma once

#include <cstdint>
#include <string>

#include "data/image_shape.hpp"
#include "trainer/config.hpp"
#include "trainer/estimate.hpp"

namespace perrin::launch {

/// What `perrin train --dry-run` prints: the resolved configuration and, as TOML comments, what the run will need.
/// @param images  of the training dataset
std::string dry_run_report(const trainer::Config& config, const trainer::Estimate& estimate, std::uint64_t images,
                           const data::ImageShape& shape, int ranks);

}  // namespace perrin::launch
