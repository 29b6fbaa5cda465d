#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <numeric>
#include <sstream>
#include <stdexcept>

#include "trainer/model/initialize.hpp"
#include "trainer/model/unet.hpp"
#include "trainer/random/keyed_noise.hpp"

namespace perrin::trainer {
namespace {

constexpr data::ImageShape kCifar{3, 32, 32};
constexpr data::ImageShape kSmallImage{1, 8, 8};

ModelConfig small_model() {
  return {.block_out_channels = {8, 16}, .layers_per_block = 1, .attention_resolutions = {4}, .norm_num_groups = 4};
}

using Weights = std::map<std::string, at::Tensor>;

// Initial weights, with the almost-zero output layers scaled up so that every path carries something.
Weights weights_for(const ModelConfig& model, const data::ImageShape& shape, at::ScalarType type = at::kFloat) {
  Weights weights;
  for (ParameterSpec spec : unet_parameters(model, shape)) {
    spec.initializer.scale = 1;
    weights[spec.name] = at::empty(spec.shape, type);
    initialize(spec, weights[spec.name], 5);
  }
  return weights;
}

UNet network(const ModelConfig& model, const data::ImageShape& shape, const Weights& weights,
             at::MemoryFormat activations = at::MemoryFormat::ChannelsLast) {
  return UNet(
      model, shape, [&](const std::string& name) { return weights.at(name); }, activations);
}

at::Tensor images(std::int64_t count, const data::ImageShape& shape) {
  std::vector<std::uint64_t> positions(static_cast<std::size_t>(count));
  std::iota(positions.begin(), positions.end(), 0);
  return keyed_normal({.seed = 2}, positions, {shape.channels, shape.height, shape.width});
}

TEST(UnetParameters, AreThoseOfThePublishedCifar10Network) {
  std::ifstream fixture(PERRIN_TEST_DATA "/ddpm_cifar10_unet2d_keys.txt");
  std::vector<std::string> expected;
  for (std::string line; std::getline(fixture, line);) {
    expected.push_back(line);
  }
  ASSERT_EQ(expected.size(), 328u);

  std::vector<std::string> actual;
  std::int64_t elements = 0;
  for (const ParameterSpec& spec : unet_parameters(ModelConfig{}, kCifar)) {
    std::ostringstream line;
    line << spec.name << " (";
    for (std::size_t i = 0; i < spec.shape.size(); ++i) {
      line << (i == 0 ? "" : ", ") << spec.shape[i];
    }
    line << (spec.shape.size() == 1 ? ",)" : ")");
    actual.push_back(line.str());
    elements += spec.numel();
  }
  EXPECT_THAT(actual, testing::UnorderedElementsAreArray(expected));
  EXPECT_EQ(elements, 35'746'307);
}

TEST(UnetParameters, OfTheDdpm256NetworkCountAsPublished) {
  const ModelConfig ddpm256{.block_out_channels = {128, 128, 256, 256, 512, 512}, .attention_resolutions = {16}};
  const auto parameters = unet_parameters(ddpm256, {3, 256, 256});
  EXPECT_EQ(std::accumulate(parameters.begin(), parameters.end(), std::int64_t{0},
                            [](std::int64_t sum, const ParameterSpec& spec) { return sum + spec.numel(); }),
            113'673'219);
}

TEST(UnetParameters, KeepQueryKeyAndValueOfAnAttentionAdjacent) {
  const auto parameters = unet_parameters(ModelConfig{}, kCifar);
  std::size_t attentions = 0;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const std::string& name = parameters[i].name;
    if (!name.ends_with(".to_q.weight")) {
      continue;
    }
    const std::string prefix = name.substr(0, name.size() - std::string("to_q.weight").size());
    std::vector<std::string> next;
    for (std::size_t j = i; j < i + 6; ++j) {
      next.push_back(parameters.at(j).name);
    }
    EXPECT_THAT(next, testing::ElementsAre(prefix + "to_q.weight", prefix + "to_k.weight", prefix + "to_v.weight",
                                           prefix + "to_q.bias", prefix + "to_k.bias", prefix + "to_v.bias"));
    ++attentions;
  }
  EXPECT_EQ(attentions, 6u);
}

TEST(UnetParameters, RefuseWhatCannotBeBuiltAndNameTheKey) {
  const auto refusal = [](const ModelConfig& model, const data::ImageShape& shape) -> std::string {
    try {
      unet_parameters(model, shape);
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_THAT(refusal({.norm_num_groups = 24}, kCifar), testing::HasSubstr("norm_num_groups"));
  EXPECT_THAT(refusal({.attention_head_dim = 48}, kCifar), testing::HasSubstr("attention_head_dim"));
  EXPECT_THAT(refusal({}, {1, 28, 28}), testing::HasSubstr("multiple of 8"));
  EXPECT_THAT(refusal({.dropout = 1.0}, kCifar), testing::HasSubstr("dropout"));
  EXPECT_THAT(refusal({.block_out_channels = {}}, kCifar), testing::HasSubstr("block_out_channels"));
  EXPECT_THAT(refusal({.block_out_channels = {3, 6}, .norm_num_groups = 3}, kCifar), testing::HasSubstr("even"));
}

TEST(Unet, GivesTheSameInBothMemoryFormatsAndForAnyStridesOfTheWeights) {
  const ModelConfig model = small_model();
  const Weights weights = weights_for(model, kSmallImage, at::kDouble);
  Weights channels_last = weights;
  for (auto& [name, weight] : channels_last) {
    weight = weight.dim() == 4 ? weight.contiguous(at::MemoryFormat::ChannelsLast) : weight;
  }
  const at::Tensor x = images(2, kSmallImage).to(at::kDouble), t = at::tensor({3L, 900L});
  const at::Tensor expected = network(model, kSmallImage, weights, at::MemoryFormat::Contiguous)(x, t);
  EXPECT_EQ(expected.sizes(), x.sizes());
  EXPECT_EQ(expected.scalar_type(), at::kDouble);
  EXPECT_TRUE(network(model, kSmallImage, weights)(x, t).allclose(expected, 1e-12, 1e-12));
  EXPECT_TRUE(network(model, kSmallImage, channels_last)(x, t).allclose(expected, 1e-12, 1e-12));
}

TEST(Unet, GradientsAgreeWithFiniteDifferences) {
  const ModelConfig model = small_model();
  Weights weights = weights_for(model, kSmallImage, at::kDouble);
  for (auto& [name, weight] : weights) {
    weight.requires_grad_();
  }
  const UNet unet = network(model, kSmallImage, weights);
  const at::Tensor x = images(2, kSmallImage).to(at::kDouble), t = at::tensor({3L, 900L});
  const auto loss = [&] { return unet(x, t).square().mean(); };
  torch::autograd::backward({loss()}, {});

  const at::NoGradGuard no_grad;
  for (auto& [name, weight] : weights) {
    // The derivative along one fixed direction of each parameter.
    const at::Tensor direction =
        at::linspace(-1, 1, weight.numel(), weight.options().requires_grad(false)).view(weight.sizes());
    constexpr double kStep = 1e-5;
    weight.add_(direction, kStep);
    const double above = loss().item<double>();
    weight.sub_(direction, 2 * kStep);
    const double below = loss().item<double>();
    weight.add_(direction, kStep);
    const double expected = (above - below) / (2 * kStep);
    const double actual = (weight.grad() * direction).sum().item<double>();
    EXPECT_NEAR(actual, expected, 1e-6 * std::max(1.0, std::abs(expected))) << name;
  }
}

TEST(Unet, DropoutBelongsToPositionsNotToPlacesInTheBatch) {
  ModelConfig model = small_model();
  model.dropout = 0.3;
  const Weights weights = weights_for(model, kSmallImage, at::kDouble);
  const UNet unet = network(model, kSmallImage, weights);
  const at::Tensor x = images(4, kSmallImage).to(at::kDouble), t = at::tensor({3L, 900L, 40L, 7L});
  const std::vector<std::uint64_t> positions{100, 101, 102, 103};
  const std::span<const std::uint64_t> all(positions);
  const auto run = [&](std::int64_t first, std::int64_t count, std::uint64_t seed, bool training) {
    return unet(x.narrow(0, first, count), t.narrow(0, first, count),
                {.positions = all.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
                 .seed = seed,
                 .training = training});
  };
  const at::Tensor whole = run(0, 4, 1, true);
  EXPECT_TRUE(at::cat({run(0, 1, 1, true), run(1, 3, 1, true)}).allclose(whole, 1e-12, 1e-12));
  EXPECT_FALSE(run(0, 4, 2, true).allclose(whole, 1e-2, 1e-2));
  EXPECT_FALSE(run(0, 4, 1, false).allclose(whole, 1e-2, 1e-2));
  EXPECT_TRUE(run(0, 4, 1, false).equal(unet(x, t)));
  EXPECT_THROW(unet(x, t, {.positions = all.first(2), .seed = 1, .training = true}), std::invalid_argument);
}

TEST(Unet, RefusesForeignShapes) {
  const ModelConfig model = small_model();
  Weights weights = weights_for(model, kSmallImage);
  const UNet unet = network(model, kSmallImage, weights);
  const at::Tensor x = images(2, kSmallImage);
  EXPECT_THROW(unet(x, at::tensor({3L})), std::invalid_argument);
  EXPECT_THROW(unet(x.narrow(2, 0, 4), at::tensor({3L, 4L})), std::invalid_argument);
  weights["conv_in.weight"] = at::zeros({8, 1, 1, 1});
  EXPECT_THROW(network(model, kSmallImage, weights), std::invalid_argument);
}

}  // namespace
}  // namespace perrin::trainer
