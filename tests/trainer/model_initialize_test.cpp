#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>
#include <stdexcept>

#include "trainer/model/initialize.hpp"
#include "trainer/model/unet.hpp"

namespace perrin::trainer {
namespace {

at::Tensor initialized(const ParameterSpec& spec, std::uint64_t seed) {
  at::Tensor values = at::empty(spec.shape);
  initialize(spec, values, seed);
  return values;
}

const ParameterSpec kConvolution{"conv", {64, 32, 3, 3}, {Initializer::Kind::xavier_uniform, 1.0}};

TEST(Initialize, XavierUniformHasTheVarianceAndLimitsOfFanAverage) {
  // variance_scaling(scale, fan_avg, uniform): U(-a, a) with a^2 / 3 = scale / fan_avg.
  const double fan_average = (32 * 9 + 64 * 9) / 2.0;
  for (const double scale : {1.0, 1e-10}) {
    ParameterSpec spec = kConvolution;
    spec.initializer.scale = scale;
    const at::Tensor values = initialized(spec, 3).to(at::kDouble);
    const double limit = std::sqrt(3 * scale / fan_average), n = static_cast<double>(values.numel());
    EXPECT_LE(values.abs().max().item<double>(), limit * (1 + 1e-6));
    EXPECT_GE(values.abs().max().item<double>(), limit * 0.999);
    EXPECT_NEAR(values.mean().item<double>(), 0, 5 * limit / std::sqrt(3 * n));
    EXPECT_NEAR(values.var().item<double>() / (scale / fan_average), 1, 5 * std::sqrt(0.8 / n));
  }
}

TEST(Initialize, DependsOnNameAndSeedNotOnMemoryLayout) {
  at::Tensor channels_last =
      at::empty(kConvolution.shape, at::TensorOptions().memory_format(at::MemoryFormat::ChannelsLast));
  initialize(kConvolution, channels_last, 3);
  EXPECT_TRUE(channels_last.equal(initialized(kConvolution, 3)));
  EXPECT_FALSE(initialized(kConvolution, 4).equal(initialized(kConvolution, 3)));
  ParameterSpec other = kConvolution;
  other.name = "conv2";
  EXPECT_FALSE(initialized(other, 3).equal(initialized(kConvolution, 3)));
}

TEST(Initialize, FollowsThePapersCodeForEveryKindOfParameter) {
  for (const ParameterSpec& spec : unet_parameters(ModelConfig{}, {3, 32, 32})) {
    const bool bias = spec.name.ends_with(".bias"), norm = spec.shape.size() == 1 && !bias;
    const bool output =
        spec.name.ends_with("conv2.weight") || spec.name.ends_with("to_out.0.weight") || spec.name == "conv_out.weight";
    if (bias) {
      EXPECT_EQ(spec.initializer.kind, Initializer::Kind::zeros) << spec.name;
    } else if (norm) {
      EXPECT_EQ(spec.initializer.kind, Initializer::Kind::ones) << spec.name;
    } else {
      EXPECT_EQ(spec.initializer.kind, Initializer::Kind::xavier_uniform) << spec.name;
      EXPECT_EQ(spec.initializer.scale, output ? 1e-10 : 1.0) << spec.name;
    }
  }
}

TEST(Initialize, UniformFillsItsLimitsAndNormalItsMoments) {
  const double n = 64 * 32 * 9;
  const at::Tensor uniform =
      initialized({"conv", {64, 32, 3, 3}, {Initializer::Kind::uniform, 0.25}}, 3).to(at::kDouble);
  EXPECT_LE(uniform.abs().max().item<double>(), 0.25);
  EXPECT_GE(uniform.abs().max().item<double>(), 0.25 * 0.999);
  EXPECT_NEAR(uniform.var().item<double>() / (0.25 * 0.25 / 3), 1, 5 * std::sqrt(0.8 / n));
  const at::Tensor normal = initialized({"embedding", {64, 288}, {Initializer::Kind::normal, 2.0}}, 3).to(at::kDouble);
  EXPECT_NEAR(normal.mean().item<double>(), 0, 5 * 2 / std::sqrt(n));
  EXPECT_NEAR(normal.var().item<double>() / 4, 1, 5 * std::sqrt(2 / n));
  EXPECT_NEAR((normal / 2).pow(4).mean().item<double>(), 3, 5 * std::sqrt(96 / n));  // of a normal, not of a uniform
}

TEST(Initialize, AdmsNetworkStartsAsPyTorchsLayersWithOutputsOfZero) {
  const ModelConfig adm{
      .scale_shift_norm = true, .resample = Resample::resnet, .num_classes = 10, .initialization = Initialization::adm};
  std::map<std::string, double> limits;  // of the layer, by its weight
  for (const ParameterSpec& spec : unet_parameters(adm, {3, 32, 32})) {
    const std::string layer = spec.name.substr(0, spec.name.rfind('.'));
    const bool output = layer.ends_with("conv2") || layer.ends_with("to_out.0") || layer == "conv_out";
    const bool norm = layer.find("norm") != std::string::npos;
    const bool bias = spec.name.ends_with(".bias");
    if (layer == "class_embedding") {
      EXPECT_EQ(spec.initializer.kind, Initializer::Kind::normal);
      EXPECT_EQ(spec.initializer.scale, 1.0);
    } else if (norm && !bias) {
      EXPECT_EQ(spec.initializer.kind, Initializer::Kind::ones) << spec.name;
    } else if (norm || output) {
      EXPECT_EQ(spec.initializer.kind, Initializer::Kind::zeros) << spec.name;
    } else {
      if (!bias) {
        limits[layer] = 1 / std::sqrt(static_cast<double>(spec.numel()) / static_cast<double>(spec.shape[0]));
      }
      EXPECT_EQ(spec.initializer.kind, Initializer::Kind::uniform) << spec.name;
      EXPECT_DOUBLE_EQ(spec.initializer.scale, limits.at(layer)) << spec.name;
    }
  }
}

TEST(Initialize, NoTwoParametersOfANetworkStartAlike) {
  std::set<float> firsts;
  std::size_t drawn = 0;
  for (const ParameterSpec& spec : unet_parameters(ModelConfig{}, {3, 32, 32})) {
    if (spec.initializer.kind == Initializer::Kind::xavier_uniform) {
      const double fan_free =
          initialized({spec.name, {4, 4}, {Initializer::Kind::xavier_uniform, 1.0}}, 1)[0][0].item<double>();
      firsts.insert(static_cast<float>(fan_free));
      ++drawn;
    }
  }
  EXPECT_EQ(firsts.size(), drawn);
}

TEST(Initialize, RefusesAnotherShape) {
  EXPECT_THROW(initialize(kConvolution, at::empty({64, 32, 3, 1}), 1), std::invalid_argument);
}

}  // namespace
}  // namespace perrin::trainer
