#include "launch/config/check.hpp"

#include <algorithm>
#include <bit>
#include <set>

#include "launch/config/value.hpp"

namespace perrin::launch {
namespace {

std::string text(std::int64_t value) { return std::to_string(value); }

[[noreturn]] void refuse(const PlaceOf& place_of, const std::string& key, const std::string& reason) {
  throw ConfigError(place_of(key), key, "'" + key + "' " + reason);
}

void check_model(const trainer::ModelConfig& model, const PlaceOf& place_of) {
  const std::string channels_key = "model.block_out_channels";
  for (const std::int64_t channels : model.block_out_channels) {
    if (channels % model.norm_num_groups != 0) {
      throw ConfigError(place_of(channels_key), channels_key,
                        "'" + channels_key + "' holds " + text(channels) +
                            ", which model.norm_num_groups = " + text(model.norm_num_groups) + " does not divide");
    }
  }
  if (model.block_out_channels.front() % 2 != 0) {
    throw ConfigError(place_of(channels_key), channels_key,
                      "'" + channels_key + "' begins with " + text(model.block_out_channels.front()) +
                          "; it must be even, for the sines and cosines of the time embedding");
  }
  if (model.attention_heads > 0 && model.attention_head_dim > 0)
    refuse(place_of, "model.attention_heads",
           "and model.attention_head_dim are both given; one decides, the other is 0");
  if (model.label_dropout > 0 && model.num_classes == 0)
    refuse(place_of, "model.label_dropout", "drops labels, and the model has none: set model.num_classes, or 0 here");
}

void check_diffusion(const trainer::DiffusionConfig& diffusion, const PlaceOf& place_of) {
  using trainer::BetaSchedule, trainer::PredictionType;
  if (diffusion.beta_start > diffusion.beta_end) {
    throw ConfigError(place_of("diffusion.beta_end"), "diffusion.beta_end",
                      "'diffusion.beta_end' = " + to_toml(diffusion.beta_end) +
                          " is below diffusion.beta_start = " + to_toml(diffusion.beta_start));
  }
  const bool listed = diffusion.beta_schedule == BetaSchedule::listed;
  if (listed != !diffusion.betas.empty()) {
    refuse(place_of, "diffusion.betas",
           listed ? "is empty, but diffusion.beta_schedule = \"list\": give one beta for each timestep"
                  : "is given, but not used: set diffusion.beta_schedule = \"list\", or leave it out");
  }
  if (listed && static_cast<std::int64_t>(diffusion.betas.size()) != diffusion.timesteps) {
    refuse(place_of, "diffusion.betas",
           "holds " + text(static_cast<std::int64_t>(diffusion.betas.size())) +
               " betas for diffusion.timesteps = " + text(diffusion.timesteps) + "; give one for each timestep");
  }
  const bool divides_by_signal =
      diffusion.prediction == PredictionType::epsilon || diffusion.prediction == PredictionType::edm;
  if (diffusion.zero_terminal_snr && divides_by_signal) {
    refuse(place_of, "diffusion.zero_terminal_snr",
           "leaves no signal at the last timestep, so that this diffusion.prediction says nothing there; set "
           "diffusion.prediction = \"v\" or \"x0\"");
  }
  if (diffusion.zero_terminal_snr && diffusion.timesteps < 2)
    refuse(place_of, "diffusion.timesteps", "= 1 leaves nothing to rescale; diffusion.zero_terminal_snr needs 2");
}

void check_objective(const trainer::Config& config, const PlaceOf& place_of) {
  using trainer::LossType, trainer::PredictionType, trainer::TimestepSampling, trainer::VarianceType;
  const auto& objective = config.objective;
  const bool learned = config.diffusion.variance_type == VarianceType::learned_range;
  if (config.diffusion.prediction == PredictionType::edm) {
    if (learned)
      refuse(
          place_of, "diffusion.variance_type",
          "= \"learned_range\" has no meaning at continuous noise levels; with diffusion.prediction = \"edm\" choose "
          "fixed_small or fixed_large");
    if (objective.loss != LossType::simple)
      refuse(place_of, "objective.loss",
             "needs timesteps; with diffusion.prediction = \"edm\" only \"simple\" is defined");
    if (objective.timesteps == TimestepSampling::importance)
      refuse(place_of, "objective.timesteps",
             "= \"importance\" needs timesteps; with diffusion.prediction = \"edm\" choose uniform or stratified");
  }
  if (learned && objective.loss == LossType::simple)
    refuse(
        place_of, "objective.loss",
        "= \"simple\" does not train the variance of diffusion.variance_type = \"learned_range\"; choose \"hybrid\" or "
        "\"vlb\"");
  if (!learned && objective.loss == LossType::hybrid)
    refuse(place_of, "objective.loss",
           "= \"hybrid\" trains a learned variance; set diffusion.variance_type = \"learned_range\", or choose "
           "\"simple\"");
  if (config.diffusion.zero_terminal_snr && objective.min_snr_gamma > 0)
    refuse(
        place_of, "objective.min_snr_gamma",
        "weighs the last timesteps of diffusion.zero_terminal_snr by almost 0, and sampling begins there; set it to 0");
  if (objective.loss == LossType::vlb && objective.min_snr_gamma > 0)
    refuse(place_of, "objective.min_snr_gamma",
           "weighs L_simple, which objective.loss = \"vlb\" does not contain; set it to 0");
}

bool is_power_of_two(std::int64_t number) { return std::has_single_bit(static_cast<std::uint64_t>(number)); }

void check_distributed(const trainer::Config& config, const PlaceOf& place_of) {
  const auto& distributed = config.distributed;
  if (distributed.share_gpu && distributed.device == trainer::DeviceChoice::cpu)
    refuse(place_of, "distributed.share_gpu", "= true shares no GPU with distributed.device = \"cpu\"; leave one away");
  if (distributed.reduction == trainer::Reduction::fast) return;
  if (!is_power_of_two(distributed.shards))
    refuse(place_of, "distributed.shards", "= " + text(distributed.shards) + " is no power of two");
  if (distributed.shards > config.train.batch_size)
    refuse(place_of, "distributed.shards",
           "= " + text(distributed.shards) + " is more than train.batch_size = " + text(config.train.batch_size));
  if (config.train.micro_batch > 0)
    refuse(
        place_of, "train.micro_batch",
        "= " + text(config.train.micro_batch) +
            " would cut the shards of distributed.reduction = \"reproducible\" differently on other numbers of ranks; "
            "set it to 0, and raise distributed.shards to save memory");
  if (distributed.wire == trainer::Wire::bf16)
    refuse(place_of, "distributed.wire",
           "= \"bf16\" rounds the sum of each rank, which depends on their number; distributed.reduction = "
           "\"reproducible\" needs \"fp32\"");
}

void check_sample(const trainer::Config& config, const PlaceOf& place_of) {
  using trainer::Sampler;
  const auto& sample = config.sample;
  const std::int64_t timesteps = config.diffusion.timesteps;
  if (sample.sampler != Sampler::heun && sample.steps > timesteps) {
    refuse(place_of, "sample.steps",
           "= " + text(sample.steps) + " is more than diffusion.timesteps = " + text(timesteps) +
               "; each timestep is visited at most once (0: all of them)");
  }
  if (sample.sampler == Sampler::heun && config.diffusion.zero_terminal_snr)
    refuse(place_of, "sample.sampler",
           "= \"heun\" cannot begin at the endless noise level of diffusion.zero_terminal_snr; choose another");
  if (sample.spacing == trainer::Spacing::leading && sample.steps > 0 && sample.sampler != Sampler::heun) {
    const std::int64_t first = (sample.steps - 1) * (timesteps / sample.steps);
    if (first < timesteps * 4 / 5)
      refuse(place_of, "sample.spacing",
             "= \"leading\" with sample.steps = " + text(sample.steps) + " begins at t = " + text(first) + " of " +
                 text(timesteps) + ", where x_T is no pure noise; choose linspace or trailing, or fewer steps");
  }
  const bool begins_late = sample.spacing == trainer::Spacing::leading || sample.spacing == trainer::Spacing::quad;
  if (config.diffusion.zero_terminal_snr && begins_late)
    refuse(place_of, "sample.spacing",
           "does not visit the last timestep, where diffusion.zero_terminal_snr has pure noise; choose trailing or "
           "linspace");
  if (sample.churn_max > 0 && sample.churn_min > sample.churn_max)
    refuse(place_of, "sample.churn_min", "is above sample.churn_max = " + to_toml(sample.churn_max));
  if (sample.guidance_sigma_max > 0 && sample.guidance_sigma_min >= sample.guidance_sigma_max)
    refuse(place_of, "sample.guidance_sigma_min",
           "is not below sample.guidance_sigma_max = " + to_toml(sample.guidance_sigma_max));
  if (sample.sampler == Sampler::heun && sample.sigma_min >= sample.sigma_max)
    refuse(place_of, "sample.sigma_min", "is not below sample.sigma_max = " + to_toml(sample.sigma_max));
  if (sample.guidance != 1 && config.model.num_classes == 0)
    refuse(place_of, "sample.guidance",
           "= " + to_toml(sample.guidance) +
               " guides towards a class, and the model has none (model.num_classes = 0); "
               "set it to 1");
  if (sample.guidance != 1 && config.model.label_dropout == 0)
    refuse(place_of, "sample.guidance",
           "= " + to_toml(sample.guidance) +
               " needs a network that was also trained without labels; train with "
               "model.label_dropout = 0.1, say, or set it to 1");
  if (!sample.classes.empty() && config.model.num_classes == 0)
    refuse(place_of, "sample.classes", "names classes, and the model has none (model.num_classes = 0)");
  for (const std::int64_t label : sample.classes) {
    if (label >= config.model.num_classes)
      refuse(place_of, "sample.classes",
             "holds " + text(label) + "; the classes are 0 to " + text(config.model.num_classes - 1));
  }
}

void check_evaluate(const trainer::EvaluateConfig& evaluate, const PlaceOf& place_of) {
  if (evaluate.samples_every > 0 && evaluate.samples == 0)
    refuse(place_of, "evaluate.samples_every", "is given, but evaluate.samples = 0 draws none; say how many");
}

}  // namespace

void check_consistency(const trainer::Config& config, const PlaceOf& place_of) {
  check_model(config.model, place_of);
  check_diffusion(config.diffusion, place_of);
  check_objective(config, place_of);
  check_evaluate(config.evaluate, place_of);
  check_sample(config, place_of);
  check_distributed(config, place_of);
  if (config.train.micro_batch > config.train.batch_size) {
    throw ConfigError(place_of("train.micro_batch"), "train.micro_batch",
                      "'train.micro_batch' = " + text(config.train.micro_batch) + " is more than train.batch_size = " +
                          text(config.train.batch_size) + "; 0 takes each rank's whole share at once");
  }
  if (std::set(config.ema.decays.begin(), config.ema.decays.end()).size() != config.ema.decays.size()) {
    throw ConfigError(place_of("ema.decays"), "ema.decays",
                      "'ema.decays' = " + to_toml(config.ema.decays) + " holds the same decay twice");
  }
  const auto& sigmas = config.ema.power_sigmas;
  if (std::set(sigmas.begin(), sigmas.end()).size() != sigmas.size())
    refuse(place_of, "ema.power_sigmas", "= " + to_toml(sigmas) + " holds the same width twice");
  if (config.ema.snapshot_every > 0 && config.ema.power_sigmas.empty())
    refuse(place_of, "ema.snapshot_every", "stores power-function averages; name their widths in ema.power_sigmas");
}

void check_classes(const trainer::ModelConfig& model, const data::Manifest& manifest, const std::string& dataset,
                   const std::string& place) {
  if (model.num_classes == 0) return;
  const std::string key = "model.num_classes";
  const auto found = static_cast<std::int64_t>(manifest.class_histogram.size());
  if (manifest.unlabelled == manifest.n)
    throw ConfigError(place, key,
                      "'model.num_classes' = " + text(model.num_classes) + ", but " + dataset +
                          " has no labels; prepare it with labels, or set model.num_classes = 0");
  if (manifest.unlabelled > 0 && model.label_dropout == 0)
    throw ConfigError(place, key,
                      "'model.num_classes' = " + text(model.num_classes) + ", but " +
                          text(static_cast<std::int64_t>(manifest.unlabelled)) + " images of " + dataset +
                          " have no label; give them one, or set model.label_dropout above 0, which lets images train "
                          "without");
  if (found != model.num_classes)
    throw ConfigError(place, key,
                      "'model.num_classes' = " + text(model.num_classes) + ", but " + dataset + " has " + text(found) +
                          " classes; set model.num_classes = " + text(found));
}

void check_attention_resolutions(const trainer::ModelConfig& model, std::int64_t height, const std::string& place) {
  std::vector<std::int64_t> heights;
  for (std::size_t level = 0; level < model.block_out_channels.size(); ++level, height /= 2) heights.push_back(height);
  for (const std::int64_t resolution : model.attention_resolutions) {
    if (std::find(heights.begin(), heights.end(), resolution) == heights.end()) {
      throw ConfigError(place, "model.attention_resolutions",
                        "'model.attention_resolutions' holds " + text(resolution) +
                            ", but the levels have the heights " + to_toml(heights));
    }
  }
}

void check_ranks(const trainer::Config& config, int ranks, const PlaceOf& place_of) {
  const trainer::DistributedConfig& distributed = config.distributed;
  if (config.train.batch_size < ranks)
    refuse(place_of, "train.batch_size",
           "= " + text(config.train.batch_size) + " is smaller than the " + std::to_string(ranks) +
               " ranks: start at most " + text(config.train.batch_size) + " ranks, or raise it");
  if (distributed.reduction == trainer::Reduction::fast) return;
  if (!is_power_of_two(ranks) || ranks > distributed.shards)
    refuse(place_of, "distributed.reduction",
           "= \"reproducible\" needs a number of ranks that is a power of two and at most distributed.shards = " +
               text(distributed.shards) + ", not " + std::to_string(ranks));
}

}  // namespace perrin::launch
