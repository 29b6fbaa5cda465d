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
                       "Channels of one attention head; 0: a single head over all channels.")
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
}

void add_diffusion(std::vector<Key>& keys) {
  keys.push_back(Entry("diffusion.timesteps", &Config::diffusion, &DiffusionConfig::timesteps,
                       "T, the steps of the forward process.")
                     .in(between(1, 1'000'000)));
  keys.push_back(Entry("diffusion.beta_schedule", &Config::diffusion, &DiffusionConfig::beta_schedule,
                       {{"linear", BetaSchedule::linear}, {"cosine", BetaSchedule::cosine}},
                       "Variances beta_t: linear (Ho et al. 2020) or cosine (Nichol & Dhariwal 2021)."));
  keys.push_back(Entry("diffusion.beta_start", &Config::diffusion, &DiffusionConfig::beta_start,
                       "First beta of the linear schedule.")
                     .in({.least = 0, .most = 1, .above_least = true, .below_most = true}));
  keys.push_back(
      Entry("diffusion.beta_end", &Config::diffusion, &DiffusionConfig::beta_end, "Last beta of the linear schedule.")
          .in({.least = 0, .most = 1, .above_least = true, .below_most = true}));
  keys.push_back(Entry("diffusion.variance_type", &Config::diffusion, &DiffusionConfig::variance_type,
                       {{"fixed_small", VarianceType::fixed_small}, {"fixed_large", VarianceType::fixed_large}},
                       "Variance of the reverse steps: the posterior's (fixed_small) or beta_t (fixed_large)."));
}

void add_train(std::vector<Key>& keys) {
  keys.push_back(Entry("train.steps", &Config::train, &TrainConfig::steps, "Steps after which the run is finished.")
                     .in(between(1, 1 << 24))  // far beyond any run; positions (steps * batch) have 48 bits
                     .changeable());
  keys.push_back(
      Entry("train.batch_size", &Config::train, &TrainConfig::batch_size, "Images of one step, of all ranks together.")
          .in(at_least(1)));
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
                       "Updates over which the learning rate rises linearly.")
                     .in(at_least(0)));
  keys.push_back(Entry("optimizer.schedule", &Config::optimizer, &OptimizerConfig::schedule,
                       {{"constant", LrSchedule::constant}, {"cosine", LrSchedule::cosine}},
                       "Learning rate after the warm-up: constant, or a half cosine that reaches 0 at train.steps."));
}

void add_ema(std::vector<Key>& keys) {
  keys.push_back(Entry("ema.decays", &Config::ema, &EmaConfig::decays,
                       "Decay of each average of the weights; the first is evaluated, sampled and exported by default.")
                     .in(fraction())
                     .not_empty());
  keys.push_back(Entry("ema.warmup", &Config::ema, &EmaConfig::warmup,
                       "Begin with a shorter average: the decay of update n is min(decay, (1 + n) / (10 + n))."));
}

void add_checkpoint(std::vector<Key>& keys) {
  keys.push_back(Entry("checkpoint.every", &Config::checkpoint, &CheckpointConfig::every,
                       "Steps between checkpoints; one more is always made at the end.")
                     .in(at_least(1))
                     .changeable());
  keys.push_back(Entry("checkpoint.keep", &Config::checkpoint, &CheckpointConfig::keep,
                       "Newest checkpoints kept; older ones are deleted.")
                     .in(at_least(1))
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
}

void add_sample(std::vector<Key>& keys) {
  keys.push_back(Entry("sample.sampler", &Config::sample, &SampleConfig::sampler,
                       {{"ancestral", Sampler::ancestral}, {"ddim", Sampler::ddim}},
                       "ancestral (Ho et al. 2020, all timesteps) or ddim (Song et al. 2021, a few).")
                     .changeable());
  keys.push_back(Entry("sample.steps", &Config::sample, &SampleConfig::steps, "Timesteps that DDIM visits.")
                     .in(at_least(1))
                     .changeable());
  keys.push_back(Entry("sample.eta", &Config::sample, &SampleConfig::eta,
                       "Noise of DDIM: 0 deterministic, 1 as noisy as the ancestral sampler.")
                     .in(between(0, 1))
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
  keys.push_back(Entry("sample.batch_size", &Config::sample, &SampleConfig::batch_size,
                       "Images in one forward pass of the sampler.")
                     .in(at_least(1))
                     .changeable());
}

void add_distributed(std::vector<Key>& keys) {
  keys.push_back(Entry("distributed.device", &Config::distributed, &DistributedConfig::device,
                       {{"auto", DeviceChoice::automatic}, {"cpu", DeviceChoice::cpu}, {"cuda", DeviceChoice::cuda}},
                       "Where the ranks compute; auto: GPUs where every rank has one of its own, else the CPU.")
                     .changeable());
  keys.push_back(Entry("distributed.threads", &Config::distributed, &DistributedConfig::threads,
                       "Threads of each rank on the CPU; 0: the cores it may use, shared among the node's ranks.")
                     .in(between(0, 4096))
                     .changeable());
  keys.push_back(Entry("distributed.bucket_mib", &Config::distributed, &DistributedConfig::bucket_mib,
                       "Most MiB of gradients in one all-reduce.")
                     .in({.least = 0, .most = 65536, .above_least = true})
                     .changeable());
  keys.push_back(Entry("distributed.timeout_seconds", &Config::distributed, &DistributedConfig::timeout_seconds,
                       "Seconds that a rank waits for the others in one operation before it gives up.")
                     .in({.least = 0, .most = 86400, .above_least = true})
                     .changeable());
}

std::vector<Key> make_table() {
  std::vector<Key> keys;
  add_run(keys);
  add_data(keys);
  add_model(keys);
  add_diffusion(keys);
  add_train(keys);
  add_optimizer(keys);
  add_ema(keys);
  add_checkpoint(keys);
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
      {"train", "What a run does and when."},
      {"optimizer", "Adam with a global-norm clip."},
      {"ema", "Exponential moving averages of the weights."},
      {"checkpoint", "Checkpoints."},
      {"evaluate", "The held-out loss: fixed images, timesteps and noise, so that runs compare."},
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
