#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <fstream>
#include <functional>
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

// Everything that a configuration can switch on, where it differs from small_model().
ModelConfig small_adm() {
  ModelConfig model = small_model();
  model.attention_resolutions = {4, 8};
  model.attention_heads = 2;
  model.scale_shift_norm = true;
  model.resample = Resample::resnet;
  model.flip_sin_to_cos = true;
  model.freq_shift = 0;
  model.residual_scale = 0.8;
  model.num_classes = 3;
  model.out_channels = 2;
  return model;
}

std::string network_name(const testing::TestParamInfo<ModelConfig>& model) { return model.index == 0 ? "Ddpm" : "Adm"; }

std::int64_t elements_of(const ModelConfig& model, const data::ImageShape& shape) {
  const auto parameters = unet_parameters(model, shape);
  return std::accumulate(parameters.begin(), parameters.end(), std::int64_t{0},
                         [](std::int64_t sum, const ParameterSpec& spec) { return sum + spec.numel(); });
}

std::string refusal(const std::function<void()>& action) {
  try {
    action();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "accepted";
}

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

TEST(UnetParameters, OfPublishedNetworksCountAsPublished) {
  EXPECT_EQ(elements_of({.out_channels = 6}, kCifar), 35'749'766);
  EXPECT_EQ(elements_of({.num_classes = 10}, kCifar), 35'751'427);
  EXPECT_EQ(elements_of({.block_out_channels = {128, 128, 256, 256, 512, 512}}, {3, 256, 256}), 113'673'219);

  // Nichol & Dhariwal 2021, CIFAR-10 with learned variances: "52.5M".
  const ModelConfig improved_cifar{.layers_per_block = 3,
                                   .attention_resolutions = {16, 8},
                                   .attention_heads = 4,
                                   .scale_shift_norm = true,
                                   .downsample_padding = 1,
                                   .out_channels = 6};
  EXPECT_EQ(elements_of(improved_cifar, kCifar), 52'546'438);

  // Dhariwal & Nichol 2021, class-conditional ImageNet 64x64; the published count is that of learned variances.
  ModelConfig adm64{.block_out_channels = {192, 384, 576, 768},
                    .layers_per_block = 3,
                    .attention_resolutions = {32, 16, 8},
                    .attention_head_dim = 64,
                    .scale_shift_norm = true,
                    .resample = Resample::resnet,
                    .num_classes = 1000,
                    .out_channels = 6};
  EXPECT_EQ(elements_of(adm64, {3, 64, 64}), 295'904'454);
  adm64.out_channels = 0;
  EXPECT_EQ(elements_of(adm64, {3, 64, 64}), 295'899'267);
}

TEST(OutputChannels, FollowTheVarianceTypeUnlessTheyAreGiven) {
  const auto resolved = [](std::int64_t out_channels, VarianceType variance) {
    return with_output_channels({.out_channels = out_channels}, kCifar, variance).out_channels;
  };
  EXPECT_EQ(resolved(0, VarianceType::fixed_small), 3);
  EXPECT_EQ(resolved(3, VarianceType::fixed_large), 3);
  EXPECT_EQ(resolved(0, VarianceType::learned_range), 6);
  EXPECT_EQ(resolved(6, VarianceType::learned_range), 6);
  EXPECT_EQ(refusal([&] { resolved(3, VarianceType::learned_range); }),
            "model: learned_range needs 6 output channels for images of 3, model.out_channels is 3; set it to 0 or 6");
  EXPECT_THAT(refusal([&] { resolved(6, VarianceType::fixed_large); }), testing::HasSubstr("set it to 0 or 3"));
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
  const auto refused = [](const ModelConfig& model, const data::ImageShape& shape = kCifar) {
    return refusal([&] { unet_parameters(model, shape); });
  };
  EXPECT_THAT(refused({.norm_num_groups = 24}), testing::HasSubstr("norm_num_groups"));
  EXPECT_THAT(refused({.attention_head_dim = 48}), testing::HasSubstr("attention_head_dim"));
  EXPECT_THAT(refused({.attention_heads = 3}), testing::HasSubstr("attention_heads"));
  EXPECT_THAT(refused({.attention_head_dim = 64, .attention_heads = 4}), testing::HasSubstr("set one of them to 0"));
  EXPECT_THAT(refused({}, {1, 28, 28}), testing::HasSubstr("multiple of 8"));
  EXPECT_THAT(refused({.dropout = 1.0}), testing::HasSubstr("dropout"));
  EXPECT_THAT(refused({.block_out_channels = {}}), testing::HasSubstr("block_out_channels"));
  EXPECT_THAT(refused({.block_out_channels = {3, 6}, .norm_num_groups = 3}), testing::HasSubstr("even"));
  EXPECT_THAT(refused({.freq_shift = 2}), testing::HasSubstr("freq_shift"));
  EXPECT_THAT(refused({.downsample_padding = 2}), testing::HasSubstr("downsample_padding"));
  EXPECT_THAT(refused({.residual_scale = 0}), testing::HasSubstr("residual_scale"));
  EXPECT_THAT(refused({.label_dropout = 0.1}), testing::HasSubstr("set num_classes"));
  EXPECT_THAT(refused({.num_classes = 10, .label_dropout = 1}), testing::HasSubstr("label_dropout"));
  // A level without attention need not be divided into heads.
  EXPECT_EQ(refused({.attention_head_dim = 256}), "accepted");
}

class UnetMemory : public testing::TestWithParam<ModelConfig> {};

TEST_P(UnetMemory, FormatAndStridesOfTheWeightsDoNotChangeTheOutput) {
  const ModelConfig& model = GetParam();
  const Weights weights = weights_for(model, kSmallImage, at::kDouble);
  Weights channels_last = weights;
  for (auto& [name, weight] : channels_last) {
    weight = weight.dim() == 4 ? weight.contiguous(at::MemoryFormat::ChannelsLast) : weight;
  }
  const at::Tensor x = images(2, kSmallImage).to(at::kDouble), t = at::tensor({3L, 900L});
  const at::Tensor expected = network(model, kSmallImage, weights, at::MemoryFormat::Contiguous)(x, t);
  EXPECT_EQ(expected.scalar_type(), at::kDouble);
  EXPECT_TRUE(network(model, kSmallImage, weights)(x, t).allclose(expected, 1e-12, 1e-12));
  EXPECT_TRUE(network(model, kSmallImage, channels_last)(x, t).allclose(expected, 1e-12, 1e-12));
}

INSTANTIATE_TEST_SUITE_P(Networks, UnetMemory, testing::Values(small_model(), small_adm()), network_name);

class UnetGradients : public testing::TestWithParam<ModelConfig> {
 protected:
  // Hundreds of passes over a few values: threads that wait for each other would take ten times as long.
  void SetUp() override { at::set_num_threads(1); }
  void TearDown() override { at::set_num_threads(threads_); }

 private:
  const int threads_ = at::get_num_threads();
};

TEST_P(UnetGradients, AgreeWithFiniteDifferences) {
  const ModelConfig& model = GetParam();
  Weights weights = weights_for(model, kSmallImage, at::kDouble);
  for (auto& [name, weight] : weights) {
    weight.requires_grad_();
  }
  const UNet unet = network(model, kSmallImage, weights);
  const at::Tensor x = images(3, kSmallImage).to(at::kDouble), t = at::tensor({3L, 900L, 40L});
  const ForwardContext context{.labels = model.num_classes > 0 ? at::tensor({2L, -1L, 0L}) : at::Tensor()};
  const auto loss = [&] { return unet(x, t, context).square().mean(); };
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

INSTANTIATE_TEST_SUITE_P(Networks, UnetGradients, testing::Values(small_model(), small_adm()), network_name);

TEST(Unet, WithoutALabelIsTheNetworkWhoseClassVectorIsZero) {
  const ModelConfig model = small_adm();
  Weights weights = weights_for(model, kSmallImage, at::kDouble);
  const at::Tensor x = images(2, kSmallImage).to(at::kDouble), t = at::tensor({3L, 900L});
  const auto output = [&](const at::Tensor& labels) {
    return network(model, kSmallImage, weights)(x, t, {.labels = labels});
  };
  const at::Tensor unlabelled = output({}), labelled = output(at::tensor({2L, 2L}));
  EXPECT_EQ(unlabelled.sizes(), at::IntArrayRef({2, 2, 8, 8}));
  EXPECT_FALSE(labelled.allclose(unlabelled, 1e-3, 1e-3));
  EXPECT_TRUE(output(at::tensor({-1L, -1L})).equal(unlabelled));
  EXPECT_TRUE(output(at::tensor({2L, -1L})).allclose(at::stack({labelled[0], unlabelled[1]}), 1e-12, 1e-12));
  weights["class_embedding.weight"][2].zero_();
  EXPECT_TRUE(output(at::tensor({2L, 2L})).equal(unlabelled));
}

TEST(Unet, RefusesLabelsThatItCannotUse) {
  const ModelConfig conditional = small_adm(), unconditional = small_model();
  const Weights weights = weights_for(conditional, kSmallImage), plain = weights_for(unconditional, kSmallImage);
  const at::Tensor x = images(2, kSmallImage), t = at::tensor({3L, 900L});
  const auto refused = [&](const at::Tensor& labels) {
    return refusal([&] { network(conditional, kSmallImage, weights)(x, t, {.labels = labels}); });
  };
  EXPECT_EQ(refused(at::tensor({0L, 2L})), "accepted");
  EXPECT_THAT(refused(at::tensor({0L, 3L})), testing::HasSubstr("[0, 3)"));
  EXPECT_THAT(refused(at::tensor({-2L, 0L})), testing::HasSubstr("-1 for none"));
  EXPECT_THAT(refused(at::tensor({0L})), testing::HasSubstr("batch of 2"));
  EXPECT_THAT(refused(at::tensor({0.0, 1.0})), testing::HasSubstr("int64"));
  EXPECT_THAT(refusal([&] {
                network(unconditional, kSmallImage, plain)(x, t, {.labels = at::tensor({0L, 1L})});
              }),
              testing::HasSubstr("model.num_classes"));
}

TEST(Unet, TakesContinuousNoiseLevels) {
  const ModelConfig model = small_model();
  const Weights weights = weights_for(model, kSmallImage, at::kDouble);
  const UNet unet = network(model, kSmallImage, weights);
  const at::Tensor x = images(2, kSmallImage).to(at::kDouble);
  const auto output = [&](double first, double second) { return unet(x, at::tensor({first, second}, at::kDouble)); };
  EXPECT_TRUE(output(3, 900).equal(unet(x, at::tensor({3L, 900L}))));
  EXPECT_FALSE(output(3.5, 900).allclose(output(3, 900), 1e-5, 1e-5));
  EXPECT_THROW(unet(x, at::zeros({2}, at::kInt)), std::invalid_argument);
}

TEST(Unet, IsToldTimestepsByTheirScale) {
  ModelConfig model = small_model();
  const Weights weights = weights_for(model, kSmallImage);
  const at::Tensor x = images(2, kSmallImage);
  const at::Tensor plain = network(model, kSmallImage, weights)(x, at::tensor({25.0, 900.0}));
  model.timestep_scale = 0.25;
  EXPECT_TRUE(network(model, kSmallImage, weights)(x, at::tensor({100L, 3600L})).equal(plain));
}

TEST(Unet, KeepsTheMemoryFormatUnderScaleAndShift) {
  constexpr data::ImageShape kColour{3, 8, 8};  // one channel would be contiguous either way
  const ModelConfig model = small_adm();
  const Weights weights = weights_for(model, kColour);
  const at::Tensor x = images(2, kColour), t = at::tensor({3L, 900L});
  EXPECT_TRUE(network(model, kColour, weights)(x, t).is_contiguous(at::MemoryFormat::ChannelsLast));
  EXPECT_TRUE(network(model, kColour, weights, at::MemoryFormat::Contiguous)(x, t).is_contiguous());
}

TEST(Unet, DropoutBelongsToPositionsNotToPlacesInTheBatch) {
  ModelConfig model = small_model();
  model.resample = Resample::resnet;  // whose blocks drop out too
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
