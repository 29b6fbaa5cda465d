#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "comm/device.hpp"
#include "data/read_method.hpp"

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
  data::ReadMethod read = data::ReadMethod::mmap;
  data::Verify verify = data::Verify::reads;
  bool resident = false;     ///< the training images live in the memory of the device
  bool warm_up = false;      ///< have the kernel read the training dataset into the page cache at the start
  std::int64_t threads = 1;  ///< of each rank's loader
};

/// How the U-Net changes resolution.
enum class Resample {
  conv,   ///< Ho et al. 2020: convolution of stride 2; nearest neighbour and convolution
  resnet  ///< BigGAN, Dhariwal & Nichol 2021: a residual block whose input and branch are both resampled
};
/// Whose code the initial weights follow.
enum class Initialization {
  ddpm,  ///< Ho et al. 2020: Xavier uniform, biases 0, the last layer of each branch scaled by 1e-10
  adm    ///< Dhariwal & Nichol 2021: PyTorch's uniform weights and biases, the last layer of each branch 0
};

/// A U-Net of the DDPM family; the names are those of diffusers' UNet2DModel. Image size and channels come from the
/// dataset.
struct ModelConfig {
  std::vector<std::int64_t> block_out_channels = {128, 256, 256, 256};  ///< one level each, finest first
  std::int64_t layers_per_block = 2;
  std::vector<std::int64_t> attention_resolutions = {
      16};                              ///< self-attention at levels of these heights, and in the middle
  std::int64_t attention_head_dim = 0;  ///< channels of one head; 0: attention_heads decides
  std::int64_t attention_heads = 0;     ///< heads of each attention; 0: a single one, or by attention_head_dim
  std::int64_t norm_num_groups = 32;
  double norm_eps = 1e-6;
  double dropout = 0.0;
  bool scale_shift_norm = false;  ///< the time embedding scales and shifts norm2's output instead of being added
  Resample resample = Resample::conv;
  bool flip_sin_to_cos = false;         ///< time embedding [cos, sin] (OpenAI's code) instead of [sin, cos]
  double timestep_scale = 1.0;          ///< t is multiplied by it: 1000 / T in improved DDPM
  std::int64_t freq_shift = 1;          ///< its frequencies are 10000^(-i / (half - freq_shift)): 1 Ho, 0 OpenAI
  std::int64_t downsample_padding = 0;  ///< of the strided convolution: 0 right and below only (Ho), 1 all around
  double residual_scale = 1.0;          ///< of each residual sum: 1/sqrt(2) in NCSN++ and EDM's DDPM++
  std::int64_t num_classes = 0;         ///< 0: unconditional
  double label_dropout = 0.0;           ///< probability that an image trains without its label, for guidance
  std::int64_t out_channels = 0;        ///< 0: the images', twice as many with learned_range
  Initialization initialization = Initialization::ddpm;
};

enum class BetaSchedule { linear, quadratic, cosine, sigmoid, listed };
enum class VarianceType { fixed_small, fixed_large, learned_range };

/// What the network's output stands for.
enum class PredictionType {
  epsilon,  ///< the noise (Ho et al. 2020)
  x0,       ///< the clean image; diffusers: sample
  v,        ///< sqrt(abar) eps - sqrt(1 - abar) x_0 (Salimans & Ho 2022); diffusers: v_prediction
  edm       ///< F of Karras et al. 2022, eq. 7, over continuous noise levels
};

/// The forward process q and the variance of the reverse process p (Ho et al. 2020, sections 2 and 3.2).
struct DiffusionConfig {
  std::int64_t timesteps = 1000;
  BetaSchedule beta_schedule = BetaSchedule::linear;
  double beta_start = 1e-4;        ///< linear, quadratic, sigmoid
  double beta_end = 0.02;          ///< linear, quadratic, sigmoid
  std::vector<double> betas;       ///< listed only: one for each timestep
  bool zero_terminal_snr = false;  ///< rescaled so that x_T is pure noise (Lin et al. 2024, algorithm 1)
  PredictionType prediction = PredictionType::epsilon;
  VarianceType variance_type = VarianceType::fixed_large;
};

enum class LossType { simple, vlb, hybrid };
enum class TimestepSampling { uniform, stratified, importance };

/// What training minimises, and at which noise levels it looks.
struct ObjectiveConfig {
  LossType loss = LossType::simple;
  double vlb_weight = 0.001;  ///< of L_vlb in the hybrid (Nichol & Dhariwal 2021, eq. 16)
  double min_snr_gamma = 0;   ///< caps the weight of x_0's error at this SNR (Hang et al. 2023); 0: none
  TimestepSampling timesteps = TimestepSampling::uniform;
};

/// Preconditioning and noise levels of PredictionType::edm (Karras et al. 2022, table 1).
struct EdmConfig {
  double sigma_data = 0.5;
  double p_mean = -1.2;  ///< of ln sigma while training
  double p_std = 1.2;
};

/// In which type convolutions and matrix products compute; statistics, softmax, loss, the stored weights, their
/// gradients and all that the optimizer keeps are float32 always.
enum class Precision {
  automatic,  ///< bf16 where the processor or GPU has instructions for it
  fp32,
  bf16
};

/// What one run does and when.
struct TrainConfig {
  std::int64_t steps = 800'000;
  Precision precision = Precision::fp32;
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
  std::int64_t warmup_steps = 5000;            ///< lr rises linearly over these steps
  LrSchedule schedule = LrSchedule::constant;  ///< after the warm-up; cosine falls to 0 at train.steps
  bool shard = false;                          ///< ZeRO-1: each rank keeps its part of Adam's moments and of the EMAs
};

/// Exponential moving averages of the weights.
struct EmaConfig {
  std::vector<double> decays = {
      0.9999};                       ///< at least one; the first is what is evaluated, sampled and exported by default
  bool warmup = false;               ///< decay of update n is min(decay, (1 + n) / (10 + n))
  std::vector<double> power_sigmas;  ///< relative widths of power-function averages (Karras et al. 2024), tracked too
  std::int64_t snapshot_every = 0;   ///< steps between stored snapshots of those, for reconstruction; 0: none
};

struct CheckpointConfig {
  std::int64_t every = 1000;        ///< steps; one more is always made at the end
  double every_minutes = 0;         ///< also after this time without one; 0: by steps alone
  std::int64_t keep = 3;            ///< newest ones kept
  std::int64_t keep_every = 0;      ///< steps; those at multiples are kept for ever; 0: none
  bool keep_best = true;            ///< the one with the lowest held-out loss is kept too
  double grace_seconds = 2;         ///< between a SIGTERM to a rank and its end
  std::int64_t most_failures = 10;  ///< writes in a row that may fail, for want of space say, before the run ends
};

/// When the numbers of a run go wrong.
struct RecoveryConfig {
  std::int64_t most_skipped = 10;   ///< updates in a row skipped for a loss or gradient that is not finite
  double loss_z_score = 0;          ///< of a step's loss among the 128 before it; 0: no limit
  std::int64_t most_rollbacks = 3;  ///< returns to the last checkpoint before the run ends
};

/// Held-out loss: fixed images, timesteps and noise, so that two runs compare. And scores of samples that [sample]
/// draws.
struct EvaluateConfig {
  std::int64_t images = 2048;  ///< at most; the first of the held-out dataset
  std::int64_t batch_size = 64;
  std::int64_t samples = 0;           ///< drawn and scored; 0: none
  std::int64_t samples_every = 0;     ///< steps; 0: only at the end
  std::string reference;              ///< what samples are compared with, dataset or statistics; empty: data.train
  std::string extractor = "builtin";  ///< or a TorchScript file
  std::string extractor_sha256;       ///< of that file
};

enum class Sampler { ancestral, ddim, dpm_solver, heun };
constexpr std::string_view name_of(Sampler sampler) noexcept {
  switch (sampler) {
    case Sampler::ancestral:
      return "ancestral";
    case Sampler::ddim:
      return "ddim";
    case Sampler::dpm_solver:
      return "dpm++2m";
    case Sampler::heun:
      return "heun";
  }
  return "";
}
/// Which timesteps a sampler of fewer steps visits.
enum class Spacing { automatic, leading, linspace, trailing, quad, log_snr };
enum class ClipX0 { none, fixed, dynamic };

struct SampleConfig {
  Sampler sampler = Sampler::ddim;
  std::int64_t steps = 50;  ///< 0: all timesteps
  Spacing spacing = Spacing::automatic;
  double eta = 0.0;  ///< of DDIM: 0 deterministic, 1 as noisy as the ancestral sampler
  ClipX0 clip = ClipX0::fixed;
  double clip_percentile = 0.995;     ///< dynamic only (Saharia et al. 2022, section 2.3)
  double guidance = 1.0;              ///< classifier-free (Ho & Salimans 2022); 1: none
  double guidance_sigma_min = 0;      ///< guidance acts at sigma / alpha in (min, max] only (Kynkaanniemi et al. 2024)
  double guidance_sigma_max = 0;      ///< 0: no limit
  std::vector<std::int64_t> classes;  ///< of the images, repeated as often as need be; empty: every class in turn
  double sigma_min = 0.002, sigma_max = 80, rho = 7;                ///< of Heun's sampler (Karras et al. 2022, eq. 5)
  double churn = 0, churn_min = 0, churn_max = 0, churn_noise = 1;  ///< its S_churn, S_tmin, S_tmax (0: none), S_noise
  std::int64_t rows = 8;
  std::int64_t columns = 8;
  std::uint64_t seed = 0;
  std::int64_t batch_size =
      16;  ///< images that a rank draws at a time; whole batches go to ranks, on the CPU in tiles (sample_tiles.hpp)
};

using comm::DeviceChoice;

/// How gradients of the global batch are summed.
enum class Reduction {
  fast,         ///< each rank its share at once
  reproducible  ///< shard by shard in one fixed tree, so that any number of ranks gives the same bits
};

/// How gradients travel between ranks. They are always added in float32.
enum class Wire { fp32, bf16 };

struct DistributedConfig {
  DeviceChoice device = DeviceChoice::automatic;
  bool share_gpu = false;    ///< ranks of a node may have one GPU: for tests
  std::int64_t threads = 0;  ///< of each rank; 0: cores of the node / its ranks
  Reduction reduction = Reduction::fast;
  std::int64_t shards = 8;         ///< of the global batch, a power of two; reproducible only
  Wire wire = Wire::fp32;          ///< of the gradients
  double bucket_mib = 4.0;         ///< cap of one gradient bucket
  bool overlap = true;             ///< buckets leave while backward goes on; false: after it, for measuring
  double timeout_seconds = 30;     ///< deadline of a collective
  bool check_collectives = false;  ///< compare what the ranks submit: slow, for finding faults
};

struct Config {
  RunConfig run;
  DataConfig data;
  ModelConfig model;
  DiffusionConfig diffusion;
  EdmConfig edm;
  ObjectiveConfig objective;
  TrainConfig train;
  OptimizerConfig optimizer;
  EmaConfig ema;
  CheckpointConfig checkpoint;
  RecoveryConfig recovery;
  EvaluateConfig evaluate;
  SampleConfig sample;
  DistributedConfig distributed;
};

}  // namespace perrin::trainer
