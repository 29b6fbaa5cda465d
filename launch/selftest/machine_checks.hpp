#pragma once

#include <c10/core/Device.h>

#include <filesystem>

#include "comm/world.hpp"
#include "launch/selftest/checklist.hpp"

namespace perrin::launch {

/// All ranks run the same perrin with the same libraries. Collective.
Finding check_same_versions(comm::World& world);

/// SHA-256, CRC-32C and Philox give the answers of their authors.
Finding check_known_answers();

/// Keyed normals and dropout masks have the bits that every other machine gives them: the promise behind seeds.
Finding check_random_bits();

/// Loss, gradients, and an update by Adam and EMA of a small U-Net on the device against the same on the CPU.
Finding check_training_step(at::Device device);

/// What a run folder needs of a file system: files made by rename are seen by all ranks, and memory mapped shared
/// survives. Collective. @param folder  exists; empty: skipped
Finding check_folder(const std::filesystem::path& folder, comm::World& world);

}  // namespace perrin::launch
