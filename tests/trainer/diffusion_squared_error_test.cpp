#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <vector>

#include "trainer/diffusion/squared_error.hpp"

namespace perrin::trainer {
namespace {

at::Tensor wave(at::IntArrayRef shape, double phase) {
  const std::int64_t count = at::prod(at::tensor(shape)).item<std::int64_t>();
  return at::arange(count, at::kDouble).add_(phase).mul_(0.7).sin_().view(shape);
}

// Sizes with and without a rest beside the kernel's 16 sums, and one smaller than them.
const std::vector<std::vector<std::int64_t>> kShapes{{3, 3, 8, 8}, {2, 1, 28, 27}, {4, 3, 1, 5}, {1, 3, 2, 2}};

at::Tensor as(const at::Tensor& values, at::ScalarType type) {
  return values.to(type).contiguous(at::MemoryFormat::ChannelsLast);
}

TEST(MeanSquaredError, IsThatOfFloat64AndSoIsItsGradient) {
  for (const auto& shape : kShapes) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      const at::Tensor target = as(wave(shape, 2), at::kFloat), weights = wave({shape[0]}, 5).to(at::kFloat);
      at::Tensor F = as(1.5 * wave(shape, 9), type).requires_grad_();
      const at::Tensor errors = mean_squared_error(F, target);
      EXPECT_EQ(errors.scalar_type(), at::kFloat);
      const at::Tensor difference = F.detach().to(at::kDouble) - target.to(at::kDouble);
      EXPECT_TRUE(errors.detach().to(at::kDouble).allclose(difference.square().mean({1, 2, 3}), 2e-7, 0));
      (weights * errors).sum().backward();
      const at::Tensor expected = weights.to(at::kDouble).view({-1, 1, 1, 1}) * 2 / difference[0].numel() * difference;
      EXPECT_EQ(F.grad().scalar_type(), type);
      EXPECT_TRUE(F.grad().is_contiguous(at::MemoryFormat::ChannelsLast));
      EXPECT_TRUE(F.grad().to(at::kDouble).allclose(expected, type == at::kFloat ? 4e-7 : 0x1p-8, 0));
    }
  }
}

TEST(MeanSquaredError, HasTheGradientOfItsFiniteDifferencesInFloat64) {
  const at::Tensor F = wave({2, 3, 4, 4}, 9), target = wave({2, 3, 4, 4}, 2), step = wave({2, 3, 4, 4}, 30);
  const auto loss = [&](double by) { return mean_squared_error(F + by * step, target).sum().item<double>(); };
  const double slope = (loss(1e-5) - loss(-1e-5)) / 2e-5;
  // The kernel's own type, with the gradient of the same point.
  at::Tensor as_float = as(F, at::kFloat).requires_grad_();
  mean_squared_error(as_float, as(target, at::kFloat)).sum().backward();
  EXPECT_NEAR((as_float.grad().to(at::kDouble) * step).sum().item<double>(), slope, 1e-6);
}

// What a machine without vectors would give: element i is added to sum i % 16, in double; the sums in their order.
TEST(MeanSquaredError, HasTheBitsOfTheScalarSum) {
  for (const auto& shape : kShapes) {
    const at::Tensor F = as(wave(shape, 9), at::kFloat), target = as(wave(shape, 2), at::kFloat);
    const at::Tensor errors = mean_squared_error(F, target);
    const std::int64_t elements = F[0].numel();
    for (std::int64_t n = 0; n < shape[0]; ++n) {
      volatile double sums[16] = {};
      for (std::int64_t i = 0; i < elements; ++i) {
        const volatile float error =
            F.const_data_ptr<float>()[n * elements + i] - target.const_data_ptr<float>()[n * elements + i];
        const volatile double square = static_cast<double>(error) * static_cast<double>(error);
        sums[i % 16] = sums[i % 16] + square;
      }
      double sum = 0;
      for (const volatile double& part : sums) sum += part;
      EXPECT_EQ(std::bit_cast<std::uint32_t>(errors[n].item<float>()),
                std::bit_cast<std::uint32_t>(static_cast<float>(sum / static_cast<double>(elements))));
    }
  }
}

TEST(MeanSquaredError, TakesTensorsThatTheKernelDoesNot) {
  const at::Tensor target = wave({2, 3, 4, 4}, 2).to(at::kFloat), both = wave({2, 6, 4, 4}, 9).to(at::kFloat);
  const at::Tensor F = both.narrow(1, 0, 3);
  EXPECT_TRUE(mean_squared_error(F, target).allclose((F - target).square().mean({1, 2, 3}), 1e-6, 0));
  EXPECT_TRUE(
      mean_squared_error(F.contiguous(), as(target, at::kFloat)).allclose(mean_squared_error(F, target), 1e-6, 0));
}

}  // namespace
}  // namespace perrin::trainer
