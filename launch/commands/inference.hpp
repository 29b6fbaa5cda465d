#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "launch/commands/loose_model.hpp"
#include "launch/config/read.hpp"
#include "launch/session.hpp"
#include "trainer/checkpoint/stored_model.hpp"
#include "trainer/diffusion/process.hpp"
#include "trainer/model/unet.hpp"

namespace perrin::launch {

/// What every command that runs a trained model is told.
struct InferenceArguments {
  std::filesystem::path source;  ///< run, checkpoint, diffusers folder or single file
  std::string weights = "ema";
  std::string device = "auto";  ///< empty: as the configuration says, and the threads too
  std::int64_t threads = 0;
};

/// The value of --weights. @throws std::invalid_argument, which the option itself has ruled out
trainer::WeightsChoice weights_of(const InferenceArguments& arguments);

/// Adds RUN|CHECKPOINT|MODEL and --weights.
void add_source_options(CLI::App& app, InferenceArguments& arguments);
/// Adds --device and --threads.
void add_device_options(CLI::App& app, InferenceArguments& arguments);

/// A checkpoint and the configuration of its run, with the command line's changes: found before MPI starts.
struct StoredRun {
  std::filesystem::path checkpoint;      ///< or the path of a model without a run
  trainer::CheckpointManifest manifest;  ///< of a model without a run: its origin, as far as known, and step
  trainer::Config config;
  std::optional<LooseModel> loose = {};  ///< where there is no run
};

/// @param overrides  what the command's own options change in the run's configuration
/// @throws CheckpointError, also for weights that are not there; data::DataError for a model without a run that cannot
/// be read; ConfigError for an option out of range; UsageError for a choice of weights where there is none
StoredRun find_run(const InferenceArguments& arguments, std::vector<Override> overrides);

/// The weights that are meant. @throws CheckpointError if the checkpoint is damaged
trainer::StoredModel load_weights(const StoredRun& run, const trainer::WeightsChoice& weights);

/// A trained network, ready on this rank's device.
struct Predictor {
  trainer::StoredModel stored;
  trainer::DiffusionProcess process;
  trainer::UNet model;
};

/// @throws CheckpointError if the checkpoint is damaged
Predictor load_predictor(const StoredRun& run, const trainer::WeightsChoice& weights, comm::World& world,
                         at::Device device);

}  // namespace perrin::launch
