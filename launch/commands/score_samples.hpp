#pragma once

#include <c10/core/Device.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <string>

#include "comm/world.hpp"
#include "launch/commands/inference.hpp"
#include "trainer/evaluate/variational_bound.hpp"

namespace perrin::launch {

/// Which network sees images.
struct ExtractorArguments {
  std::string extractor;
  std::string sha256;
};

/// Adds --extractor and --extractor-sha256. @param otherwise  what is taken without them, in words
void add_extractor_options(CLI::App& app, ExtractorArguments& arguments, const std::string& otherwise);

/// What `perrin evaluate` does with samples, beside what [evaluate] of the run says.
struct SampleScoreArguments {
  std::filesystem::path save;    ///< an .npz or a folder; empty: samples are not kept
  std::filesystem::path output;  ///< folder; empty: evaluation/ of the run
};

/// Refuses before any work: samples to be saved where something is already.
/// @throws UsageError
void require_new_output(const SampleScoreArguments& arguments);

/// Draws samples, compares them with the reference and prints the scores. A start that was killed goes on from what the
/// output folder holds. Collective.
void score_samples(const StoredRun& run, const Predictor& predictor, const SampleScoreArguments& arguments,
                   comm::World& world, at::Device device, const trainer::Narrator& narrate, bool json);

}  // namespace perrin::launch
