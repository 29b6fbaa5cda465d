#include "launch/config/key_table.hpp"

#include <algorithm>
#include <stdexcept>
#include <type_traits>
#include <utility>

namespace perrin::launch {
namespace {

using namespace trainer;

constexpr double kAnyNumber = std::numeric_limits<double>::infinity();

Range at_least(double least) { return {.least = least}; }
Range above(double least) { return {.least = least, .above_least = true}; }
Range between(double least, double most) { return {.least = least, .most = most}; }
Range fraction() { return {.least = 0, .most = 1, .below_most = true}; }

/// Seeds are 64-bit words; TOML's integers are signed, so the upper half cannot be written.
template <class Member>
using Written = std::conditional_t<std::is_same_v<Member, std::uint64_t>, std::int64_t, Member>;

template <class Member>
constexpr KeyType type_of() {
  using Type = Written<Member>;
  if constexpr (std::is_same_v<Type, bool>) return KeyType::boolean;
  if constexpr (std::is_same_v<Type, std::int64_t>) return KeyType::integer;
  if constexpr (std::is_same_v<Type, double>) return KeyType::number;
  if constexpr (std::is_same_v<Type, std::string>) return KeyType::text;
  if constexpr (std::is_same_v<Type, std::vector<std::int64_t>>) return KeyType::integers;
  if constexpr (std::is_same_v<Type, std::vector<double>>) return KeyType::numbers;
}

/// Choices by the names that they have everywhere.
template <class Enum>
std::vector<std::pair<std::string, Enum>> named(std::initializer_list<Enum> choices) {
  std::vector<std::pair<std::string, Enum>> names;
  for (const Enum choice : choices) names.emplace_back(name_of(choice), choice);
  return names;
}

/// A key under construction; the calls below read as the columns of the table.
class Entry {
 public:
  template <class SectionType, class Member>
  Entry(std::string name, SectionType Config::*section, Member SectionType::*member, std::string documentation) {
    key_.name = std::move(name);
    key_.type = type_of<Member>();
    key_.documentation = std::move(documentation);
    // Every number is finite, or the resolved configuration could not be compared with itself.
    key_.range = {.least = -kAnyNumber, .most = kAnyNumber, .above_least = true, .below_most = true};
    key_.get = [=](const Config& config) { return Value(static_cast<Written<Member>>(config.*section.*member)); };
    key_.set = [=](Config& config, const Value& value) {
      config.*section.*member = static_cast<Member>(std::get<Written<Member>>(value));
    };
  }

  template <class SectionType, class Enum>
  Entry(std::string name, SectionType Config::*section, Enum SectionType::*member,
        std::vector<std::pair<std::string, Enum>> names, std::string documentation) {
    key_.name = std::move(name);
    key_.type = KeyType::choice;
    key_.documentation = std::move(documentation);
    for (const auto& [text, value] : names) key_.choices.push_back(text);
    key_.get = [=](const Config& config) {
      for (const auto& [text, value] : names) {
        if (value == config.*section.*member) return Value(text);
      }
      throw std::logic_error("an enumerator has no name in the key table");
    };
    key_.set = [=](Config& config, const Value& value) {
      for (const auto& [text, choice] : names) {
        if (text == std::get<std::string>(value)) config.*section.*member = choice;
      }
    };
  }

  Entry&& in(Range range) && {
    if (range.most == kAnyNumber) range.below_most = true;
    key_.range = range;
    return std::move(*this);
  }
  Entry&& not_empty() && {
    key_.may_be_empty = false;
    return std::move(*this);
  }
  Entry&& changeable() && {
    key_.may_change_on_resume = true;
    return std::move(*this);
  }
  operator Key() && { return std::move(key_); }  // NOLINT(google-explicit-constructor): a row becomes its key

 private:
  Key key_;
};

/// A function for each section, so that the table reads like trainer/config.hpp.
void add_run(std::vector<Key>& keys) {
  keys.push_back(Entry("run.directory", &Config::run, &RunConfig::directory,
                       "Folder of the run: configuration, checkpoints, metrics, pictures and logs.")
                     .not_empty()
                     .changeable());
  keys.push_back(Entry("run.seed", &Config::run, &RunConfig::seed,
                       "Key of all randomness: initial weights, order of the images, timesteps, noise, flips, dropout.")
                     .in(at_least(0)));
}

void add_data(std::vector<Key>& keys) {
  keys.push_back(
      Entry("data.train", &Config::data, &DataConfig::train,
            "Folder of the training dataset, made by `perrin prepare`. A resumed run checks its fingerprint.")
          .changeable());
  keys.push_back(Entry("data.heldout", &Config::data, &DataConfig::heldout,
                       "Folder of the held-out dataset; empty: no held-out loss.")
                     .changeable());
  keys.push_back(Entry("data.horizontal_flip", &Config::data, &DataConfig::horizontal_flip,
                       "Flip each training image with probability 1/2."));
  keys.push_back(Entry("data.read", &Config::data, &DataConfig::read,
                       {{"mmap", data::ReadMethod::mmap}, {"pread", data::ReadMethod::pread}},
                       "How the training images are read: copied from the mapped shards, or by a system call each, for "
                       "file systems that map slowly or not at all.")
                     .changeable());
  keys.push_back(Entry("data.verify", &Config::data, &DataConfig::verify,
                       {{"reads", data::Verify::reads}, {"never", data::Verify::never}},
                       "Whether every image is compared with its checksum when it is read.")
                     .changeable());
  keys.push_back(Entry("data.resident", &Config::data, &DataConfig::resident,
                       "Hold all training images in the memory of each rank's device, read once at the start: for "
                       "datasets that fit, no batch is copied to it any more.")
                     .changeable());
  keys.push_back(Entry("data.warm_up", &Config::data, &DataConfig::warm_up,
                       "Have the kernel read the training dataset into the page cache at the start; it should fit into "
                       "the memory of the node.")
                     .changeable());
  keys.push_back(Entry("data.threads", &Config::data, &DataConfig::threads, "Threads that read ahead on each rank.")
                     .in(between(1, 1024))
                     .changeable());
}

void add_model(std::vector<Key>& keys) {
  keys.push_back(Entry("model.block_out_channels", &Config::model, &ModelConfig::block_out_channels,
                       "Channels of each level of the U-Net, finest first; each level halves height and width.")
                     .in(between(1, 16384))
                     .not_empty());
  keys.push_back(Entry("model.layers_per_block", &Config::model, &ModelConfig::layers_per_block,
                       "Residual blocks of each level on the way down; one more on the way up.")
                     .in(between(1, 64)));
  keys.push_back(Entry("model.attention_resolutions", &Config::model, &ModelConfig::attention_resolutions,
                       "Heights of the levels that have self-attention; the middle always has it.")
                     .in(at_least(1)));
  keys.push_back(Entry("model.attention_head_dim", &Config::model, &ModelConfig::attention_head_dim,
                       "Channels of one attention head; 0: attention_heads decides.")
                     .in(at_least(0)));
  keys.push_back(Entry("model.attention_heads", &Config::model, &ModelConfig::attention_heads,
                       "Heads of each attention; 0: a single one, or as many as attention_head_dim makes.")
                     .in(at_least(0)));
  keys.push_back(Entry("model.norm_num_groups", &Config::model, &ModelConfig::norm_num_groups,
                       "Groups of each group normalisation; divides every entry of block_out_channels.")
                     .in(at_least(1)));
  keys.push_back(Entry("model.norm_eps", &Config::model, &ModelConfig::norm_eps,
                       "Added to the variance in each group normalisation.")
                     .in(above(0)));
  keys.push_back(Entry("model.dropout", &Config::model, &ModelConfig::dropout,
                       "Probability of dropping an activation in a residual block while training.")
                     .in(fraction()));
  keys.push_back(Entry("model.scale_shift_norm", &Config::model, &ModelConfig::scale_shift_norm,
                       "The time embedding scales and shifts the second norm of a residual block (Nichol & Dhariwal "
                       "2021) instead of being added before it."));
  keys.push_back(Entry("model.resample", &Config::model, &ModelConfig::resample,
                       {{"conv", Resample::conv}, {"resnet", Resample::resnet}},
                       "Change of resolution: by a convolution (Ho et al. 2020) or by a residual block (Dhariwal & "
                       "Nichol 2021)."));
  keys.push_back(Entry("model.flip_sin_to_cos", &Config::model, &ModelConfig::flip_sin_to_cos,
                       "Time embedding as [cos, sin] (OpenAI's code) instead of [sin, cos] (Ho et al. 2020)."));
  keys.push_back(
      Entry("model.timestep_scale", &Config::model, &ModelConfig::timestep_scale,
            "Factor of t before its embedding; 1000 / timesteps in improved DDPM, so that t spans 0 to 1000.")
          .in(above(0)));
  keys.push_back(Entry("model.freq_shift", &Config::model, &ModelConfig::freq_shift,
                       "Its frequencies are 10000^(-i / (half - freq_shift)): 1 in Ho et al. 2020, 0 in OpenAI's code.")
                     .in(between(0, 1)));
  keys.push_back(Entry("model.downsample_padding", &Config::model, &ModelConfig::downsample_padding,
                       "Padding of the strided convolution: 0 right and below only (Ho et al. 2020), 1 all around "
                       "(OpenAI's code).")
                     .in(between(0, 1)));
  keys.push_back(Entry("model.residual_scale", &Config::model, &ModelConfig::residual_scale,
                       "Factor of every residual sum; 0.70710678 in NCSN++ and EDM's DDPM++.")
                     .in({.least = 0, .most = 1, .above_least = true}));
  keys.push_back(Entry("model.num_classes", &Config::model, &ModelConfig::num_classes,
                       "Classes that the network is told; 0: unconditional.")
                     .in(between(0, 1'000'000)));
  keys.push_back(Entry("model.label_dropout", &Config::model, &ModelConfig::label_dropout,
                       "Probability that an image trains without its label; above 0, so that sample.guidance works.")
                     .in(fraction()));
  keys.push_back(Entry("model.out_channels", &Config::model, &ModelConfig::out_channels,
                       "Channels of the output; 0: the images', twice as many with learned_range.")
                     .in(at_least(0)));
  keys.push_back(
      Entry("model.initialization", &Config::model, &ModelConfig::initialization,
            {{"ddpm", Initialization::ddpm}, {"adm", Initialization::adm}},
            "Initial weights: Xavier uniform with almost-zero outputs (Ho et al. 2020), or PyTorch's uniform "
            "with zero outputs (Dhariwal & Nichol 2021)."));
}

void add_diffusion(std::vector<Key>& keys) {
  keys.push_back(Entry("diffusion.timesteps", &Config::diffusion, &DiffusionConfig::timesteps,
                       "T, the steps of the forward process.")
                     .in(between(1, 1'000'000)));
  keys.push_back(
      Entry("diffusion.beta_schedule", &Config::diffusion, &DiffusionConfig::beta_schedule,
            {{"linear", BetaSchedule::linear},
             {"scaled_linear", BetaSchedule::quadratic},
             {"quadratic", BetaSchedule::quadratic},
             {"cosine", BetaSchedule::cosine},
             {"sigmoid", BetaSchedule::sigmoid},
             {"list", BetaSchedule::listed}},
            "Variances beta_t: linear (Ho et al. 2020), cosine (Nichol & Dhariwal 2021), linear in the root "
            "(scaled_linear in diffusers, quadratic elsewhere: one formula), sigmoid, or the list in betas."));
  keys.push_back(Entry("diffusion.beta_start", &Config::diffusion, &DiffusionConfig::beta_start,
                       "First beta; not of cosine and list.")
                     .in({.least = 0, .most = 1, .above_least = true, .below_most = true}));
  keys.push_back(
      Entry("diffusion.beta_end", &Config::diffusion, &DiffusionConfig::beta_end, "Last beta; not of cosine and list.")
          .in({.least = 0, .most = 1, .above_least = true, .below_most = true}));
  keys.push_back(
      Entry("diffusion.betas", &Config::diffusion, &DiffusionConfig::betas, "Every beta, where beta_schedule is list.")
          .in({.least = 0, .most = 1, .above_least = true, .below_most = true}));
  keys.push_back(Entry("diffusion.zero_terminal_snr", &Config::diffusion, &DiffusionConfig::zero_terminal_snr,
                       "Rescale the schedule so that x_T is pure noise (Lin et al. 2024); needs prediction x0 or v."));
  keys.push_back(
      Entry("diffusion.prediction", &Config::diffusion, &DiffusionConfig::prediction,
            {{"epsilon", PredictionType::epsilon},
             {"x0", PredictionType::x0},
             {"v", PredictionType::v},
             {"edm", PredictionType::edm}},
            "What the network predicts: the noise (Ho et al. 2020), the image, v (Salimans & Ho 2022), or the "
            "preconditioned image at continuous noise levels (Karras et al. 2022; see [edm])."));
  keys.push_back(Entry("diffusion.variance_type", &Config::diffusion, &DiffusionConfig::variance_type,
                       {{"fixed_small", VarianceType::fixed_small},
                        {"fixed_large", VarianceType::fixed_large},
                        {"learned_range", VarianceType::learned_range}},
                       "Variance of the reverse steps: the posterior's (fixed_small), beta_t (fixed_large), or learned "
                       "between the two (Nichol & Dhariwal 2021; doubles the output channels)."));
}

void add_edm(std::vector<Key>& keys) {
  keys.push_back(Entry("edm.sigma_data", &Config::edm, &EdmConfig::sigma_data,
                       "Standard deviation of the data that the preconditioning assumes.")
                     .in(above(0)));
  keys.push_back(Entry("edm.p_mean", &Config::edm, &EdmConfig::p_mean, "Mean of ln sigma while training."));
  keys.push_back(Entry("edm.p_std", &Config::edm, &EdmConfig::p_std, "Standard deviation of ln sigma while training.")
                     .in(above(0)));
}

void add_objective(std::vector<Key>& keys) {
  keys.push_back(
      Entry("objective.loss", &Config::objective, &ObjectiveConfig::loss,
            {{"simple", LossType::simple}, {"vlb", LossType::vlb}, {"hybrid", LossType::hybrid}},
            "L_simple (Ho et al. 2020), the variational bound in bits/dim, or both (Nichol & Dhariwal 2021)."));
  keys.push_back(Entry("objective.vlb_weight", &Config::objective, &ObjectiveConfig::vlb_weight,
                       "Weight of the variational bound in the hybrid.")
                     .in(at_least(0)));
  keys.push_back(Entry("objective.min_snr_gamma", &Config::objective, &ObjectiveConfig::min_snr_gamma,
                       "L_simple weighs the error of x_0 by min(SNR, gamma) (Hang et al. 2023, who take 5); 0: as the "
                       "prediction has it.")
                     .in(at_least(0)));
  keys.push_back(
      Entry("objective.timesteps", &Config::objective, &ObjectiveConfig::timesteps,
            {{"uniform", TimestepSampling::uniform},
             {"stratified", TimestepSampling::stratified},
             {"importance", TimestepSampling::importance}},
            "Timesteps of a global batch: independent, one from each equal part of the range, or in proportion "
            "to the root mean square of recent losses (Nichol & Dhariwal 2021)."));
}

void add_train(std::vector<Key>& keys) {
  keys.push_back(Entry("train.steps", &Config::train, &TrainConfig::steps, "Steps after which the run is finished.")
                     .in(between(1, 1 << 24))  // far beyond any run; positions (steps * batch) have 48 bits
                     .changeable());
  keys.push_back(
      Entry("train.batch_size", &Config::train, &TrainConfig::batch_size, "Images of one step, of all ranks together.")
          .in(at_least(1)));
  keys.push_back(Entry("train.precision", &Config::train, &TrainConfig::precision,
                       {{"auto", Precision::automatic}, {"fp32", Precision::fp32}, {"bf16", Precision::bf16}},
                       "Type in which convolutions and matrix products compute; auto: bf16 where the processor or GPU "
                       "has instructions for it. Stored weights, gradients, optimizer, statistics and loss are float32 "
                       "always.")
                     .changeable());
  keys.push_back(Entry("train.micro_batch", &Config::train, &TrainConfig::micro_batch,
                       "Most images in one forward pass of one rank, to save memory; 0: the rank's whole share.")
                     .in(at_least(0))
                     .changeable());
  keys.push_back(Entry("train.max_minutes", &Config::train, &TrainConfig::max_minutes,
                       "Wall-time budget of one start: then a checkpoint is written and the program leaves; 0: none.")
                     .in(at_least(0))
                     .changeable());
  keys.push_back(Entry("train.log_every", &Config::train, &TrainConfig::log_every, "Steps between lines of metrics.")
                     .in(at_least(1))
                     .changeable());
  keys.push_back(Entry("train.evaluate_every", &Config::train, &TrainConfig::evaluate_every,
                       "Steps between measurements of the held-out loss; 0: only at the end.")
                     .in(at_least(0))
                     .changeable());
  keys.push_back(Entry("train.sample_every", &Config::train, &TrainConfig::sample_every,
                       "Steps between sample grids; 0: only at the end.")
                     .in(at_least(0))
                     .changeable());
}

void add_optimizer(std::vector<Key>& keys) {
  keys.push_back(
      Entry("optimizer.lr", &Config::optimizer, &OptimizerConfig::lr, "Learning rate after the warm-up.").in(above(0)));
  keys.push_back(
      Entry("optimizer.beta1", &Config::optimizer, &OptimizerConfig::beta1, "Adam's decay of the mean of the gradient.")
          .in(fraction()));
  keys.push_back(
      Entry("optimizer.beta2", &Config::optimizer, &OptimizerConfig::beta2, "Adam's decay of the mean of its square.")
          .in(fraction()));
  keys.push_back(Entry("optimizer.eps", &Config::optimizer, &OptimizerConfig::eps,
                       "Adam's epsilon, which keeps the denominator from 0.")
                     .in(at_least(1e-30)));  // smaller ones are 0 in float32
  keys.push_back(
      Entry("optimizer.eps_form", &Config::optimizer, &OptimizerConfig::eps_form,
            {{"corrected", AdamEpsilon::corrected}, {"uncorrected", AdamEpsilon::uncorrected}},
            "Whether epsilon joins the bias-corrected root (PyTorch) or the uncorrected one (TensorFlow, Ho et al.)."));
  keys.push_back(Entry("optimizer.clip_norm", &Config::optimizer, &OptimizerConfig::clip_norm,
                       "The whole gradient is scaled down to this L2 norm where it is longer; 0: never.")
                     .in(at_least(0)));
  keys.push_back(Entry("optimizer.warmup_steps", &Config::optimizer, &OptimizerConfig::warmup_steps,
                       "Steps over which the learning rate rises linearly.")
                     .in(at_least(0)));
  keys.push_back(Entry("optimizer.schedule", &Config::optimizer, &OptimizerConfig::schedule,
                       {{"constant", LrSchedule::constant}, {"cosine", LrSchedule::cosine}},
                       "Learning rate after the warm-up: constant, or a half cosine that reaches 0 at train.steps."));
  keys.push_back(
      Entry("optimizer.shard", &Config::optimizer, &OptimizerConfig::shard,
            "Each rank keeps its part of Adam's moments and of the averages alone (ZeRO stage 1): less memory "
            "a rank, the same weights.")
          .changeable());
}

void add_ema(std::vector<Key>& keys) {
  keys.push_back(Entry("ema.decays", &Config::ema, &EmaConfig::decays,
                       "Decay of each average of the weights; the first is evaluated, sampled and exported by default.")
                     .in(fraction())
                     .not_empty());
  keys.push_back(Entry("ema.warmup", &Config::ema, &EmaConfig::warmup,
                       "Begin with a shorter average: the decay of update n is min(decay, (1 + n) / (10 + n))."));
  keys.push_back(
      Entry("ema.power_sigmas", &Config::ema, &EmaConfig::power_sigmas,
            "Relative widths of power-function averages that are tracked too (Karras et al. 2024 take 0.05 and "
            "0.1).")
          .in({.least = 0, .most = 0.28, .above_least = true}));
  keys.push_back(Entry("ema.snapshot_every", &Config::ema, &EmaConfig::snapshot_every,
                       "Steps between stored snapshots of the power-function averages, from which any width can be "
                       "reconstructed; 0: none.")
                     .in(at_least(0))
                     .changeable());
}

void add_checkpoint(std::vector<Key>& keys) {
  keys.push_back(Entry("checkpoint.every", &Config::checkpoint, &CheckpointConfig::every,
                       "Steps between checkpoints; one more is always made at the end.")
                     .in(at_least(1))
                     .changeable());
  keys.push_back(Entry("checkpoint.every_minutes", &Config::checkpoint, &CheckpointConfig::every_minutes,
                       "A checkpoint is also made when this time has passed since the last one; 0: by steps alone.")
                     .in(at_least(0))
                     .changeable());
  keys.push_back(Entry("checkpoint.keep", &Config::checkpoint, &CheckpointConfig::keep,
                       "Newest checkpoints kept; older ones are deleted.")
                     .in(at_least(1))
                     .changeable());
  keys.push_back(Entry("checkpoint.keep_every", &Config::checkpoint, &CheckpointConfig::keep_every,
                       "Checkpoints at multiples of these steps are kept for ever; 0: none.")
                     .in(at_least(0))
                     .changeable());
  keys.push_back(Entry("checkpoint.keep_best", &Config::checkpoint, &CheckpointConfig::keep_best,
                       "The checkpoint with the lowest held-out loss is kept too (one made at a step that "
                       "train.evaluate_every measured).")
                     .changeable());
  keys.push_back(Entry("checkpoint.grace_seconds", &Config::checkpoint, &CheckpointConfig::grace_seconds,
                       "Time between a SIGTERM to a rank and its end (mpirun gives 2 s): a checkpoint is begun only if "
                       "the last one took less.")
                     .in(at_least(0))
                     .changeable());
  keys.push_back(Entry("checkpoint.most_failures", &Config::checkpoint, &CheckpointConfig::most_failures,
                       "Checkpoints in a row that may fail (no space, say) before the run ends; it trains on and tries "
                       "again meanwhile.")
                     .in(at_least(1))
                     .changeable());
}

void add_recovery(std::vector<Key>& keys) {
  keys.push_back(Entry("recovery.most_skipped", &Config::recovery, &RecoveryConfig::most_skipped,
                       "Updates in a row that may be skipped since loss or gradient is not finite; then the run goes "
                       "back to its last checkpoint and leaves out the images since.")
                     .in(at_least(1))
                     .changeable());
  keys.push_back(Entry("recovery.loss_z_score", &Config::recovery, &RecoveryConfig::loss_z_score,
                       "Goes back likewise when a step's loss lies so many standard deviations above the mean of the "
                       "128 before it; 0: no limit.")
                     .in(at_least(0))
                     .changeable());
  keys.push_back(Entry("recovery.most_rollbacks", &Config::recovery, &RecoveryConfig::most_rollbacks,
                       "Times that a run may go back before it ends.")
                     .in(at_least(0))
                     .changeable());
}

void add_evaluate(std::vector<Key>& keys) {
  keys.push_back(Entry("evaluate.images", &Config::evaluate, &EvaluateConfig::images,
                       "Images of the held-out loss at most: the first of the held-out dataset.")
                     .in(at_least(1)));
  keys.push_back(Entry("evaluate.batch_size", &Config::evaluate, &EvaluateConfig::batch_size,
                       "Images in one forward pass of the held-out loss.")
                     .in(at_least(1))
                     .changeable());
  keys.push_back(Entry("evaluate.samples", &Config::evaluate, &EvaluateConfig::samples,
                       "Samples that are drawn as [sample] says and scored against evaluate.reference; 0: none.")
                     .in(at_least(0))
                     .changeable());
  keys.push_back(Entry("evaluate.samples_every", &Config::evaluate, &EvaluateConfig::samples_every,
                       "Steps between such scores; 0: only at the end.")
                     .in(at_least(0))
                     .changeable());
  keys.push_back(Entry("evaluate.reference", &Config::evaluate, &EvaluateConfig::reference,
                       "What samples are compared with: a dataset, or statistics that `perrin stats` made; empty: "
                       "data.train.")
                     .changeable());
  keys.push_back(Entry("evaluate.extractor", &Config::evaluate, &EvaluateConfig::extractor,
                       "Network whose features are compared: builtin, meaningful for Fashion-MNIST, or a TorchScript "
                       "file.")
                     .changeable());
  keys.push_back(Entry("evaluate.extractor_sha256", &Config::evaluate, &EvaluateConfig::extractor_sha256,
                       "SHA-256 of that file, which is code and runs only under its hash.")
                     .changeable());
}

void add_sample(std::vector<Key>& keys) {
  keys.push_back(
      Entry("sample.sampler", &Config::sample, &SampleConfig::sampler,
            named({Sampler::ancestral, Sampler::ddim, Sampler::dpm_solver, Sampler::heun}),
            "ancestral (Ho et al. 2020), ddim (Song et al. 2021), dpm++2m (Lu et al. 2022) or heun (Karras et "
            "al. 2022).")
          .changeable());
  keys.push_back(Entry("sample.steps", &Config::sample, &SampleConfig::steps,
                       "Steps of the sampler; 0: every timestep. Heun's takes two evaluations a step.")
                     .in(at_least(0))
                     .changeable());
  keys.push_back(Entry("sample.spacing", &Config::sample, &SampleConfig::spacing,
                       {{"auto", Spacing::automatic},
                        {"leading", Spacing::leading},
                        {"linspace", Spacing::linspace},
                        {"trailing", Spacing::trailing},
                        {"quad", Spacing::quad},
                        {"logsnr", Spacing::log_snr}},
                       "Which timesteps fewer steps visit; auto: logsnr for dpm++2m, linspace for ancestral and ddim. "
                       "Heun's has noise levels of its own.")
                     .changeable());
  keys.push_back(Entry("sample.eta", &Config::sample, &SampleConfig::eta,
                       "Noise of DDIM: 0 deterministic, 1 as noisy as the ancestral sampler.")
                     .in(between(0, 1))
                     .changeable());
  keys.push_back(Entry("sample.clip", &Config::sample, &SampleConfig::clip,
                       {{"none", ClipX0::none}, {"static", ClipX0::fixed}, {"dynamic", ClipX0::dynamic}},
                       "Predicted images are clipped to [-1, 1] (static), or first scaled by a percentile of their own "
                       "(dynamic, Saharia et al. 2022).")
                     .changeable());
  keys.push_back(Entry("sample.clip_percentile", &Config::sample, &SampleConfig::clip_percentile,
                       "Share of pixels that dynamic clipping leaves in range.")
                     .in({.least = 0, .most = 1, .above_least = true})
                     .changeable());
  keys.push_back(Entry("sample.guidance", &Config::sample, &SampleConfig::guidance,
                       "Classifier-free guidance (Ho & Salimans 2022): unconditional + guidance * (conditional - "
                       "unconditional); 1: none.")
                     .in(at_least(0))
                     .changeable());
  keys.push_back(Entry("sample.guidance_sigma_min", &Config::sample, &SampleConfig::guidance_sigma_min,
                       "Guidance acts above this noise level sigma / alpha (Kynkaanniemi et al. 2024).")
                     .in(at_least(0))
                     .changeable());
  keys.push_back(Entry("sample.guidance_sigma_max", &Config::sample, &SampleConfig::guidance_sigma_max,
                       "Guidance acts up to this noise level; 0: no limit.")
                     .in(at_least(0))
                     .changeable());
  keys.push_back(Entry("sample.classes", &Config::sample, &SampleConfig::classes,
                       "Classes of the images, repeated as often as need be; empty: every class in turn.")
                     .in(at_least(0))
                     .changeable());
  keys.push_back(Entry("sample.sigma_min", &Config::sample, &SampleConfig::sigma_min,
                       "Lowest noise level of Heun's sampler; not below the network's own.")
                     .in(above(0))
                     .changeable());
  keys.push_back(Entry("sample.sigma_max", &Config::sample, &SampleConfig::sigma_max,
                       "Highest noise level of Heun's sampler; not above the network's own.")
                     .in(above(0))
                     .changeable());
  keys.push_back(Entry("sample.rho", &Config::sample, &SampleConfig::rho,
                       "Bends the noise levels of Heun's sampler towards the low ones.")
                     .in(above(0))
                     .changeable());
  keys.push_back(Entry("sample.churn", &Config::sample, &SampleConfig::churn,
                       "S_churn of Heun's sampler: noise added over all its steps; 0: deterministic.")
                     .in(at_least(0))
                     .changeable());
  keys.push_back(Entry("sample.churn_min", &Config::sample, &SampleConfig::churn_min,
                       "S_tmin: it is added at noise levels from here.")
                     .in(at_least(0))
                     .changeable());
  keys.push_back(Entry("sample.churn_max", &Config::sample, &SampleConfig::churn_max,
                       "S_tmax: it is added at noise levels up to here; 0: no limit.")
                     .in(at_least(0))
                     .changeable());
  keys.push_back(Entry("sample.churn_noise", &Config::sample, &SampleConfig::churn_noise,
                       "S_noise: standard deviation of what is added, a little above 1 against lost detail.")
                     .in(above(0))
                     .changeable());
  keys.push_back(Entry("sample.rows", &Config::sample, &SampleConfig::rows, "Rows of the grid.")
                     .in(between(1, 1024))
                     .changeable());
  keys.push_back(Entry("sample.columns", &Config::sample, &SampleConfig::columns, "Columns of the grid.")
                     .in(between(1, 1024))
                     .changeable());
  keys.push_back(Entry("sample.seed", &Config::sample, &SampleConfig::seed, "Key of the noise that samples start from.")
                     .in(at_least(0))
                     .changeable());
  keys.push_back(
      Entry("sample.batch_size", &Config::sample, &SampleConfig::batch_size,
            "Images that a rank draws at a time: on a GPU in one forward pass, on the CPU in tiles of 8, so that "
            "there it shows in no image.")
          .in(at_least(1))
          .changeable());
}

void add_distributed(std::vector<Key>& keys) {
  keys.push_back(Entry("distributed.device", &Config::distributed, &DistributedConfig::device,
                       {{"auto", DeviceChoice::automatic}, {"cpu", DeviceChoice::cpu}, {"cuda", DeviceChoice::cuda}},
                       "Where the ranks compute; auto: GPUs where every rank has one of its own, else the CPU.")
                     .changeable());
  keys.push_back(Entry("distributed.share_gpu", &Config::distributed, &DistributedConfig::share_gpu,
                       "Let several ranks of a node have one GPU, where there are fewer GPUs than ranks: a test of the "
                       "program, not of its speed.")
                     .changeable());
  keys.push_back(Entry("distributed.threads", &Config::distributed, &DistributedConfig::threads,
                       "Threads of each rank on the CPU, which take a part of its images each; 0: the cores it may "
                       "use, shared among the node's ranks.")
                     .in(between(0, 4096))
                     .changeable());
  keys.push_back(Entry("distributed.reduction", &Config::distributed, &DistributedConfig::reduction,
                       {{"fast", Reduction::fast}, {"reproducible", Reduction::reproducible}},
                       "Sum of the gradients: fast, or reproducible, which gives the same bits on any number of ranks "
                       "with the same threads each."));
  keys.push_back(Entry("distributed.shards", &Config::distributed, &DistributedConfig::shards,
                       "Parts of the global batch that reproducible reduction puts through the network one by one; a "
                       "power of two, and at least the number of ranks.")
                     .in(between(1, 65536)));
  keys.push_back(Entry("distributed.wire", &Config::distributed, &DistributedConfig::wire,
                       {{"fp32", Wire::fp32}, {"bf16", Wire::bf16}},
                       "How gradients travel: as they are, or rounded to bfloat16, which is half the bytes; they are "
                       "added in float32 all the same."));
  keys.push_back(Entry("distributed.bucket_mib", &Config::distributed, &DistributedConfig::bucket_mib,
                       "Most MiB of gradients in one collective; more where the ranks' parts would be smaller than "
                       "16 KiB.")
                     .in({.least = 0, .most = 65536, .above_least = true})
                     .changeable());
  keys.push_back(Entry("distributed.overlap", &Config::distributed, &DistributedConfig::overlap,
                       "Sum gradients while backward goes on; false: after it, to measure what overlap is worth. The "
                       "result is the same.")
                     .changeable());
  keys.push_back(
      Entry("distributed.timeout_seconds", &Config::distributed, &DistributedConfig::timeout_seconds,
            "Seconds that a rank waits for the others in one operation of a step before it gives up, and the run "
            "ends; more where steps of some ranks may take so much longer.")
          .in({.least = 0, .most = 86400, .above_least = true})
          .changeable());
  keys.push_back(Entry("distributed.check_collectives", &Config::distributed, &DistributedConfig::check_collectives,
                       "Compare what the ranks submit before each collective of gradients, and name those that differ: "
                       "slow, for finding faults.")
                     .changeable());
}

std::vector<Key> make_table() {
  std::vector<Key> keys;
  add_run(keys);
  add_data(keys);
  add_model(keys);
  add_diffusion(keys);
  add_edm(keys);
  add_objective(keys);
  add_train(keys);
  add_optimizer(keys);
  add_ema(keys);
  add_checkpoint(keys);
  add_recovery(keys);
  add_evaluate(keys);
  add_sample(keys);
  add_distributed(keys);
  return keys;
}

}  // namespace

const std::vector<Section>& section_table() {
  static const std::vector<Section> sections = {
      {"run", "Where a run lives and what its randomness is keyed by."},
      {"data", "The datasets."},
      {"model",
       "A U-Net of the DDPM family, in the words of diffusers' UNet2DModel; image size and channels are the "
       "dataset's."},
      {"diffusion", "The forward process, and the variance of the reverse one."},
      {"edm", "Preconditioning and noise levels of diffusion.prediction = edm (Karras et al. 2022, table 1)."},
      {"objective", "What training minimises, and at which noise levels."},
      {"train", "What a run does and when."},
      {"optimizer", "Adam with a global-norm clip."},
      {"ema", "Exponential moving averages of the weights."},
      {"checkpoint", "Checkpoints."},
      {"recovery", "When the numbers of a run go wrong."},
      {"evaluate",
       "The held-out loss: fixed images, timesteps and noise, so that runs compare. And scores of samples."},
      {"sample", "Sample grids."},
      {"distributed", "Devices and communication."},
  };
  return sections;
}

const std::vector<Key>& key_table() {
  static const std::vector<Key> keys = make_table();
  return keys;
}

const Key* find_key(std::string_view name) {
  const auto& keys = key_table();
  const auto found = std::find_if(keys.begin(), keys.end(), [&](const Key& key) { return key.name == name; });
  return found == keys.end() ? nullptr : &*found;
}

}  // namespace perrin::launch
