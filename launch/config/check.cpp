#include "launch/config/check.hpp"

#include <algorithm>
#include <set>

#include "launch/config/value.hpp"

namespace perrin::launch {
namespace {

std::string text(std::int64_t value) { return std::to_string(value); }

void check_model(const trainer::ModelConfig& model, const PlaceOf& place_of) {
  const std::string channels_key = "model.block_out_channels";
  for (const std::int64_t channels : model.block_out_channels) {
    if (channels % model.norm_num_groups != 0) {
      throw ConfigError(place_of(channels_key), channels_key,
                        "'" + channels_key + "' holds " + text(channels) +
                            ", which model.norm_num_groups = " + text(model.norm_num_groups) + " does not divide");
    }
    if (model.attention_head_dim > 0 && channels % model.attention_head_dim != 0) {
      throw ConfigError(place_of(channels_key), channels_key,
                        "'" + channels_key + "' holds " + text(channels) + ", which model.attention_head_dim = " +
                            text(model.attention_head_dim) + " does not divide");
    }
  }
  if (model.block_out_channels.front() % 2 != 0) {
    throw ConfigError(place_of(channels_key), channels_key,
                      "'" + channels_key + "' begins with " + text(model.block_out_channels.front()) +
                          "; it must be even, for the sines and cosines of the time embedding");
  }
}

}  // namespace

void check_consistency(const trainer::Config& config, const PlaceOf& place_of) {
  check_model(config.model, place_of);
  const auto& diffusion = config.diffusion;
  if (diffusion.beta_start > diffusion.beta_end) {
    throw ConfigError(place_of("diffusion.beta_end"), "diffusion.beta_end",
                      "'diffusion.beta_end' = " + to_toml(diffusion.beta_end) +
                          " is below diffusion.beta_start = " + to_toml(diffusion.beta_start));
  }
  if (config.train.micro_batch > config.train.batch_size) {
    throw ConfigError(place_of("train.micro_batch"), "train.micro_batch",
                      "'train.micro_batch' = " + text(config.train.micro_batch) + " is more than train.batch_size = " +
                          text(config.train.batch_size) + "; 0 takes each rank's whole share at once");
  }
  if (std::set(config.ema.decays.begin(), config.ema.decays.end()).size() != config.ema.decays.size()) {
    throw ConfigError(place_of("ema.decays"), "ema.decays",
                      "'ema.decays' = " + to_toml(config.ema.decays) + " holds the same decay twice");
  }
  if (config.sample.sampler == trainer::Sampler::ddim && config.sample.steps > diffusion.timesteps) {
    throw ConfigError(place_of("sample.steps"), "sample.steps",
                      "'sample.steps' = " + text(config.sample.steps) + " is more than diffusion.timesteps = " +
                          text(diffusion.timesteps) + "; DDIM visits each timestep at most once");
  }
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

void check_ranks(const trainer::TrainConfig& train, int ranks, const std::string& place) {
  if (train.batch_size >= ranks) return;
  throw ConfigError(place, "train.batch_size",
                    "'train.batch_size' = " + text(train.batch_size) + " is smaller than the " + std::to_string(ranks) +
                        " ranks: start at most " + text(train.batch_size) + " ranks, or raise it");
}

}  // namespace perrin::launch
