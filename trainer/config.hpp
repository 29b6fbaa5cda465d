#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/device.hpp"

/// The whole configuration of a run as plain values; launch/config reads it from TOML and documents each key.
/// Nothing here knows LibTorch, MPI or TOML.
namespace perrin::trainer {

/// Where a run lives and what its randomness is keyed by.
struct RunConfig {
  std::string directory = "runs/default";
  std::uint64_t seed = 0;
};

/// The datasets, as folders made by `perrin prepare`.
struct DataConfig {
  std::string train;
  std::string heldout;           ///< empty: no held-out loss
  bool horizontal_flip = false;  ///< flip each training image with probability 1/2, keyed by its position
};

/// A U-Net of the DDPM family; the names are those of diffusers' UNet2DModel. Image size and channels come from the
/// dataset.
struct ModelConfig {
  std::vector<std::int64_t> block_out_channels = {128, 256, 256, 256};  ///< one level each, finest first
  std::int64_t layers_per_block = 2;
  std::vector<std::int64_t> attention_resolutions = {
      16};                              ///< self-attention at levels of these heights, and in the middle
  std::int64_t attention_head_dim = 0;  ///< channels of one head; 0: a single head
  std::int64_t norm_num_groups = 32;
  double norm_eps = 1e-6;
  double dropout = 0.0;
};

enum class BetaSchedule { linear, cosine };
enum class VarianceType { fixed_small, fixed_large };

/// The forward process q and the variance of the reverse process p (Ho et al. 2020, sections 2 and 3.2).
struct DiffusionConfig {
  std::int64_t timesteps = 1000;
  BetaSchedule beta_schedule = BetaSchedule::linear;
  double beta_start = 1e-4;  ///< linear only
  double beta_end = 0.02;    ///< linear only
  VarianceType variance_type = VarianceType::fixed_large;
};

/// What one run does and when.
struct TrainConfig {
  std::int64_t steps = 800'000;
  std::int64_t batch_size = 128;    ///< of all ranks together
  std::int64_t micro_batch = 0;     ///< most images in one forward pass of one rank; 0: the rank's whole share
  double max_minutes = 0;           ///< wall-time budget of one start; 0: none
  std::int64_t log_every = 50;      ///< steps
  std::int64_t evaluate_every = 0;  ///< steps; 0: only at the end
  std::int64_t sample_every = 0;    ///< steps; 0: only at the end
};

/// Where Adam's epsilon stands.
enum class AdamEpsilon {
  corrected,   ///< PyTorch: lr * mhat / (sqrt(vhat) + eps)
  uncorrected  ///< TensorFlow, and Ho's code: lr * sqrt(1-b2^t)/(1-b1^t) * m / (sqrt(v) + eps)
};
enum class LrSchedule { constant, cosine };

/// Adam (Kingma & Ba 2015) with global-norm clipping.
struct OptimizerConfig {
  double lr = 2e-4;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  AdamEpsilon eps_form = AdamEpsilon::corrected;
  double clip_norm = 1.0;                      ///< of the whole gradient; 0: no clipping
  std::int64_t warmup_steps = 5000;            ///< lr rises linearly over these updates
  LrSchedule schedule = LrSchedule::constant;  ///< after the warm-up; cosine falls to 0 at train.steps
};

/// Exponential moving averages of the weights.
struct EmaConfig {
  std::vector<double> decays = {
      0.9999};          ///< at least one; the first is what is evaluated, sampled and exported by default
  bool warmup = false;  ///< decay of update n is min(decay, (1 + n) / (10 + n))
};

struct CheckpointConfig {
  std::int64_t every = 1000;  ///< steps; one more is always made at the end
  std::int64_t keep = 3;      ///< newest ones kept
};

/// Held-out loss: fixed images, timesteps and noise, so that two runs compare.
struct EvaluateConfig {
  std::int64_t images = 2048;  ///< at most; the first of the held-out dataset
  std::int64_t batch_size = 64;
};

enum class Sampler { ancestral, ddim };

struct SampleConfig {
  Sampler sampler = Sampler::ddim;
  std::int64_t steps = 50;  ///< of DDIM; the ancestral sampler takes all timesteps
  double eta = 0.0;         ///< of DDIM: 0 deterministic, 1 as noisy as the ancestral sampler
  std::int64_t rows = 8;
  std::int64_t columns = 8;
  std::uint64_t seed = 0;
  std::int64_t batch_size =
      16;  ///< images of one forward pass; whole batches go to ranks, so that the ranks do not show in the images
};

using comm::DeviceChoice;

struct DistributedConfig {
  DeviceChoice device = DeviceChoice::automatic;
  std::int64_t threads = 0;      ///< of each rank; 0: cores of the node / its ranks
  double bucket_mib = 4.0;       ///< cap of one gradient bucket
  double timeout_seconds = 300;  ///< deadline of a collective
};

struct Config {
  RunConfig run;
  DataConfig data;
  ModelConfig model;
  DiffusionConfig diffusion;
  TrainConfig train;
  OptimizerConfig optimizer;
  EmaConfig ema;
  CheckpointConfig checkpoint;
  EvaluateConfig evaluate;
  SampleConfig sample;
  DistributedConfig distributed;
};

}  // namespace perrin::trainer
