#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "trainer/model/fused_norm.hpp"

namespace perrin::trainer {
namespace {

struct Extras {
  bool add = false, scale_shift = false, dropout = false;
  Activation activation = Activation::silu;
};

struct Case {
  std::int64_t samples, channels, skip_channels, size, groups;
  Extras with = {};
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.samples << "x(" << c.channels << "+" << c.skip_channels << ")x" << c.size << "x" << c.size << ", "
       << c.groups << " groups" << (c.with.add ? ", add" : "") << (c.with.scale_shift ? ", scale and shift" : "")
       << (c.with.dropout ? ", dropout" : "") << (c.with.activation == Activation::none ? ", no activation" : "");
}

/// Every tensor of a call, leaves that require grad, and the gradient of y.
struct Tensors {
  std::vector<at::Tensor> leaves;  // x, skip, weight, bias, add, scale, shift; undefined where the case has none
  at::Tensor dy;

  /// x, skip and dy in another type and format, the others in `small`.
  Tensors as(at::ScalarType type, at::ScalarType small, at::MemoryFormat format) const {
    Tensors result;
    for (std::size_t i = 0; i < leaves.size(); ++i) {
      at::Tensor t = leaves[i];
      if (t.defined()) {
        t = i < 2 ? t.detach().to(type).clone(format) : t.detach().to(small).clone();
        t.requires_grad_();
      }
      result.leaves.push_back(t);
    }
    result.dy = dy.to(type).clone(format);
    return result;
  }
};

/// Values that float32 and, with `type` so, bfloat16 hold exactly.
Tensors tensors_of(const Case& c, at::ScalarType type) {
  at::manual_seed(3);
  const auto random = [&](at::IntArrayRef shape, double mean, double deviation) {
    return (at::randn(shape) * deviation + mean).to(type).to(at::kDouble);
  };
  const std::int64_t channels = c.channels + c.skip_channels;
  const auto modulation = [&](bool wanted) { return wanted ? random({c.samples, channels}, 0, 0.5) : at::Tensor(); };
  Tensors t;
  t.leaves = {random({c.samples, c.channels, c.size, c.size}, 0.5, 2),
              c.skip_channels > 0 ? random({c.samples, c.skip_channels, c.size, c.size}, -1, 1) : at::Tensor(),
              random({channels}, 1, 0.3),
              random({channels}, 0, 0.3),
              modulation(c.with.add),
              modulation(c.with.scale_shift),
              modulation(c.with.scale_shift)};
  t.dy = random({c.samples, channels, c.size, c.size}, 0, 1);
  return t;
}

std::vector<std::uint64_t> positions_of(const Case& c) {
  std::vector<std::uint64_t> positions(static_cast<std::size_t>(c.samples));
  std::iota(positions.begin(), positions.end(), std::uint64_t{1} << 33);
  return positions;
}

FusedNorm norm_of(const Case& c, const Tensors& t, const std::vector<std::uint64_t>& positions) {
  FusedNorm norm{.weight = t.leaves[2],
                 .bias = t.leaves[3],
                 .groups = c.groups,
                 .eps = 1e-5,
                 .activation = c.with.activation,
                 .add = t.leaves[4],
                 .scale = t.leaves[5],
                 .shift = t.leaves[6]};
  if (c.with.dropout)
    norm.dropout = {
        .stream = {.seed = 5, .purpose = Purpose::dropout, .call_site = 7}, .positions = positions, .keep = 0.9};
  return norm;
}

/// y and the gradients of the leaves that there are.
std::vector<at::Tensor> results_of(const Case& c, const Tensors& t) {
  const std::vector<std::uint64_t> positions = positions_of(c);
  const at::Tensor y = fused_norm(t.leaves[0], t.leaves[1], norm_of(c, t, positions));
  std::vector<at::Tensor> inputs;
  for (const at::Tensor& leaf : t.leaves)
    if (leaf.defined()) inputs.push_back(leaf);
  std::vector<at::Tensor> results = torch::autograd::grad({y}, inputs, {t.dy});
  results.insert(results.begin(), y.detach());
  return results;
}

double relative_error(const at::Tensor& value, const at::Tensor& reference) {
  // With one channel in a group, add has no effect: what rounding leaves of its gradient is compared with 1.
  return ((value.to(at::kDouble) - reference).norm() / reference.norm().clamp_min(1)).item<double>();
}

double largest_error(const at::Tensor& value, const at::Tensor& reference) {
  return ((value.to(at::kDouble) - reference).abs().max() / reference.abs().max().clamp_min(1e-30)).item<double>();
}

class FusedNormTest : public testing::TestWithParam<Case> {};

TEST_P(FusedNormTest, InFloat32IsLibTorchInFloat64) {
  const Tensors exact = tensors_of(GetParam(), at::kFloat).as(at::kDouble, at::kDouble, at::MemoryFormat::Contiguous);
  const std::vector<at::Tensor> references = results_of(GetParam(), exact);
  const std::vector<at::Tensor> values =
      results_of(GetParam(), exact.as(at::kFloat, at::kFloat, at::MemoryFormat::ChannelsLast));
  const std::vector<at::Tensor> libtorch =
      results_of(GetParam(), exact.as(at::kFloat, at::kFloat, at::MemoryFormat::Contiguous));
  for (std::size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(values[i].scalar_type(), at::kFloat);
    // Also no worse than LibTorch by much: where a sum cancels, both lose digits.
    EXPECT_LT(largest_error(values[i], references[i]), 2e-6 + 2 * largest_error(libtorch[i], references[i])) << i;
  }
  EXPECT_TRUE(values[0].is_contiguous(at::MemoryFormat::ChannelsLast));
}

TEST_P(FusedNormTest, InBfloat16RoundsOnlyInputsAndOutputs) {
  const Tensors exact =
      tensors_of(GetParam(), at::kBFloat16).as(at::kDouble, at::kDouble, at::MemoryFormat::Contiguous);
  const std::vector<at::Tensor> references = results_of(GetParam(), exact);
  for (const at::ScalarType small : {at::kFloat, at::kBFloat16}) {
    const std::vector<at::Tensor> values =
        results_of(GetParam(), exact.as(at::kBFloat16, small, at::MemoryFormat::ChannelsLast));
    for (std::size_t i = 0; i < values.size(); ++i) {
      const bool rounded = values[i].scalar_type() == at::kBFloat16;
      // Rounding to 8 bits: at most 2^-8 of each element. The sums of float32 outputs see no rounding at all.
      EXPECT_LT(relative_error(values[i], references[i]), rounded ? 0x1p-8 : 1e-5) << i;
    }
  }
}

TEST_P(FusedNormTest, GivesTheSameBitsOnAnyNumberOfThreads) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const Tensors tensors = tensors_of(GetParam(), type).as(type, at::kFloat, at::MemoryFormat::ChannelsLast);
    const int before = at::get_num_threads();
    std::vector<at::Tensor> first;
    for (const int threads : {1, 2, 4}) {
      at::set_num_threads(threads);
      const std::vector<at::Tensor> results = results_of(GetParam(), tensors);
      if (first.empty()) first = results;
      for (std::size_t i = 0; i < results.size(); ++i) EXPECT_TRUE(results[i].equal(first[i])) << i << " " << threads;
    }
    at::set_num_threads(before);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, FusedNormTest,
    testing::Values(
        // The small network: 28x28 down to 7x7.
        Case{4, 32, 0, 28, 8}, Case{3, 32, 0, 28, 32, {.add = true, .dropout = true}},
        Case{4, 64, 0, 14, 8, {.add = true}}, Case{4, 64, 0, 7, 8, {.activation = Activation::none}},
        Case{2, 64, 32, 28, 8}, Case{2, 64, 64, 14, 1}, Case{2, 32, 0, 28, 1, {.scale_shift = true, .dropout = true}},
        // CIFAR-10: 32x32 down to 4x4.
        Case{2, 128, 0, 32, 32, {.add = true, .dropout = true}}, Case{2, 256, 0, 16, 32, {.scale_shift = true}},
        Case{2, 256, 128, 16, 32}, Case{2, 256, 256, 4, 32}, Case{3, 512, 0, 4, 8, {.add = true}},
        // A group over the border, parts of vectors, one pixel, one sample, more pixels than a tile in odd number.
        Case{2, 40, 24, 9, 4}, Case{2, 5, 4, 3, 3}, Case{3, 24, 0, 5, 3, {.add = true, .dropout = true}},
        Case{2, 20, 0, 13, 5, {.scale_shift = true, .dropout = true}}, Case{1, 64, 0, 1, 8}, Case{2, 33, 33, 1, 2},
        Case{2, 7, 0, 9, 1, {.add = true, .scale_shift = true, .dropout = true, .activation = Activation::none}}));

TEST(FusedNorm, GradientIsThatOfFiniteDifferencesInFloat64) {
  const Case c{2, 6, 4, 3, 2, {.add = true, .scale_shift = true}};
  const Tensors exact = tensors_of(c, at::kFloat).as(at::kDouble, at::kDouble, at::MemoryFormat::Contiguous);
  const std::vector<at::Tensor> gradients =
      results_of(c, exact.as(at::kFloat, at::kFloat, at::MemoryFormat::ChannelsLast));
  const at::NoGradGuard no_grad;
  const auto loss = [&] {
    return (fused_norm(exact.leaves[0], exact.leaves[1], norm_of(c, exact, {})) * exact.dy).sum();
  };
  for (std::size_t i = 0; i < exact.leaves.size(); ++i) {
    const at::Tensor direction = at::randn_like(exact.leaves[i]);
    constexpr double kStep = 1e-5;
    exact.leaves[i].add_(direction, kStep);
    const at::Tensor above = loss();
    exact.leaves[i].sub_(direction, 2 * kStep);
    const double slope = ((above - loss()) / (2 * kStep)).item<double>();
    exact.leaves[i].add_(direction, kStep);
    EXPECT_NEAR((gradients[i + 1].to(at::kDouble) * direction).sum().item<double>(), slope, 2e-5) << i;
  }
}

TEST(FusedNorm, KeepsItsDigitsWhereTheMeanIsLarge) {
  const Case c{2, 32, 0, 28, 8};
  Tensors t = tensors_of(c, at::kFloat);
  t.leaves[0] = (t.leaves[0] + 1000).to(at::kFloat).to(at::kDouble);
  const auto y = [&](const Tensors& of) { return fused_norm(of.leaves[0], {}, norm_of(c, of, {})).detach(); };
  const at::Tensor exact = y(t);
  // x itself has 6e-5 / 2 as its last digit; squares of 1e6 would leave the variance none.
  EXPECT_LT(largest_error(y(t.as(at::kFloat, at::kFloat, at::MemoryFormat::ChannelsLast)), exact), 1e-4);
}

TEST(FusedNorm, AddsTheOtherGradientsOfItsInputs) {
  const Case c{2, 40, 24, 9, 4};
  const Tensors t = tensors_of(c, at::kFloat).as(at::kFloat, at::kFloat, at::MemoryFormat::ChannelsLast);
  const auto gradients = [&](const FusedNormOutputs& out) {
    const at::Tensor other = (out.x * out.x).sum() + (out.skip.exp() * 0.1).sum();
    return torch::autograd::grad({(out.y * t.dy).sum() + other}, {t.leaves[0], t.leaves[1]});
  };
  const FusedNorm norm = norm_of(c, t, {});
  const auto in_one_pass = gradients(fused_norm_and_inputs(t.leaves[0], t.leaves[1], norm));
  const auto added = gradients({fused_norm(t.leaves[0], t.leaves[1], norm), t.leaves[0], t.leaves[1]});
  for (std::size_t i = 0; i < 2; ++i) EXPECT_LT(largest_error(in_one_pass[i], added[i].to(at::kDouble)), 1e-6) << i;
}

TEST(FusedNorm, WithoutGradGivesTheSameAndNoGraph) {
  const Case c{2, 32, 0, 7, 8, {.add = true, .dropout = true}};
  const Tensors t = tensors_of(c, at::kFloat).as(at::kFloat, at::kFloat, at::MemoryFormat::ChannelsLast);
  const std::vector<std::uint64_t> positions = positions_of(c);
  const at::Tensor with_graph = fused_norm(t.leaves[0], {}, norm_of(c, t, positions));
  EXPECT_TRUE(with_graph.requires_grad());
  const at::NoGradGuard no_grad;
  const at::Tensor without = fused_norm(t.leaves[0], {}, norm_of(c, t, positions));
  EXPECT_FALSE(without.requires_grad());
  EXPECT_TRUE(without.equal(with_graph));
}

TEST(FusedNorm, RefusesWhatDoesNotFit) {
  const at::Tensor x = at::randn({2, 8, 3, 3}), ones = at::ones({8});
  const FusedNorm norm{.weight = ones, .bias = ones, .groups = 4, .eps = 1e-5};
  EXPECT_NO_THROW(fused_norm(x, {}, norm));
  const auto with = [&](const auto& change) {
    FusedNorm changed = norm;
    change(changed);
    return changed;
  };
  EXPECT_THROW(fused_norm(x[0], {}, norm), std::invalid_argument);
  EXPECT_THROW(fused_norm(x, x, norm), std::invalid_argument);
  EXPECT_THROW(fused_norm(x, {}, with([](FusedNorm& n) { n.groups = 3; })), std::invalid_argument);
  EXPECT_THROW(fused_norm(x, {}, with([](FusedNorm& n) { n.add = at::ones({1, 8}); })), std::invalid_argument);
  EXPECT_THROW(fused_norm(x, {}, with([](FusedNorm& n) { n.scale = at::ones({2, 8}); })), std::invalid_argument);
  EXPECT_THROW(fused_norm(x, {}, with([](FusedNorm& n) { n.dropout = {.stream = {}, .positions = {}, .keep = 0.5}; })),
               std::invalid_argument);
}

}  // namespace
}  // namespace perrin::trainer
