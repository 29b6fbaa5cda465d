#include "trainer/evaluate/model_denoiser.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "trainer/model/initialize.hpp"
#include "trainer/random/keyed_noise.hpp"

namespace perrin::trainer {
namespace {

constexpr data::ImageShape kImage{1, 4, 4};

Config conditional_config() {
  Config config;
  config.model = {.block_out_channels = {4}, .layers_per_block = 1, .attention_resolutions = {}, .norm_num_groups = 2};
  config.model.num_classes = 3;
  config.model.label_dropout = 0.1;
  return config;
}

// Initial weights, with the almost-zero output layers scaled up so that every path carries something.
at::Tensor weight_of(const ParameterSpec& listed) {
  ParameterSpec spec = listed;
  spec.initializer.scale = 1;
  at::Tensor weight = at::empty(spec.shape, at::kFloat);
  initialize(spec, weight, 5);
  return weight;
}

std::map<std::string, at::Tensor> weights_of(const ModelConfig& model) {
  std::map<std::string, at::Tensor> weights;
  for (const ParameterSpec& spec : unet_parameters(model, kImage)) weights[spec.name] = weight_of(spec);
  return weights;
}

class ModelDenoiser : public testing::Test {
 protected:
  const at::NoGradGuard no_grad;
  Config config = conditional_config();
  const std::map<std::string, at::Tensor> weights = weights_of(config.model);
  const UNet unet{config.model, kImage, [this](const std::string& name) { return weights.at(name); }};
  const std::shared_ptr<const NoiseSchedule> schedule = std::make_shared<NoiseSchedule>(config.diffusion);
  const at::Tensor labels = at::tensor({2L, 0L});
  const at::Tensor x = keyed_normal({.seed = 1}, std::vector<std::uint64_t>{0, 1}, {1, 4, 4});
};

TEST_F(ModelDenoiser, IsClippedAfterItIsGuided) {
  config.sample.guidance = 40;
  const NoiseLevel level = schedule->level(500);
  const at::Tensor conditional = model_denoiser(unet, config, schedule, labels)(x, level).x0;
  const at::Tensor unconditional = model_denoiser(unet, config, schedule, at::full({2}, -1, at::kLong))(x, level).x0;
  const at::Tensor guided = unconditional + 40 * (conditional - unconditional);
  const at::Tensor found = sampling_denoiser(unet, config, schedule, labels)(x, level).x0;
  ASSERT_GT(guided.abs().max().item<double>(), 1.5);
  EXPECT_TRUE(found.allclose(guided.clamp(-1, 1), 1e-4, 1e-4));
  // Clipped first, it would be another image.
  const at::Tensor clipped_first =
      unconditional.clamp(-1, 1) + 40 * (conditional.clamp(-1, 1) - unconditional.clamp(-1, 1));
  EXPECT_FALSE(found.allclose(clipped_first, 1e-2, 1e-2));
}

TEST_F(ModelDenoiser, LabelsOfSamplesBelongToTheirIndices) {
  const std::vector<std::uint64_t> indices{0, 4, 5};
  EXPECT_TRUE(sampling_labels(config, indices, at::kCPU).equal(at::tensor({0L, 1L, 2L})));  // every class in turn
  config.sample.classes = {2, 1};
  EXPECT_TRUE(sampling_labels(config, indices, at::kCPU).equal(at::tensor({2L, 2L, 1L})));
  config.model.num_classes = 0;
  EXPECT_FALSE(sampling_labels(config, indices, at::kCPU).defined());
}

}  // namespace
}  // namespace perrin::trainer
