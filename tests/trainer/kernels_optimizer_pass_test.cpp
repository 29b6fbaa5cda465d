#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "comm/bfloat16.hpp"
#include "trainer/kernels/optimizer_pass.hpp"

namespace perrin::trainer {
namespace {

constexpr InstructionSet kSets[] = {InstructionSet::avx512, InstructionSet::avx2, InstructionSet::portable};
constexpr AdamScalars kScalars{.gradient_scale = 0.37F,
                               .beta1 = 0.9F,
                               .one_minus_beta1 = 0.1F,
                               .beta2 = 0.999F,
                               .one_minus_beta2 = 1e-3F,
                               .rate = 3e-3F,
                               .v_scale = 1.7F,
                               .eps = 1e-8F};

std::vector<float> random(std::size_t count, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(engine);
  return values;
}

/// All that an update touches, of `count` elements.
struct State {
  State(std::size_t count, std::size_t average_count) : weights(random(count, 1)), m(count), v(count), copy(count) {
    for (std::size_t k = 0; k < average_count; ++k) averages.push_back(random(count, 2 + static_cast<unsigned>(k)));
    v.back() = std::numeric_limits<float>::denorm_min();
    weights[3] = 0x1.01p0F;  // half way between two bfloat16 while its gradient is 0
  }

  float average_weight(std::size_t k) const { return 1 / (3.0F + 2.0F * static_cast<float>(k)); }

  void update(const std::vector<float>& gradients, std::size_t begin, std::size_t count, bool copied,
              InstructionSet set) {
    std::vector<MovingAverage> moving;
    for (std::size_t k = 0; k < averages.size(); ++k) moving.push_back({averages[k].data(), average_weight(k)});
    adam_update({.weights = weights.data(),
                 .gradients = gradients.data(),
                 .m = m.data(),
                 .v = v.data(),
                 .averages = moving.data(),
                 .average_count = static_cast<int>(moving.size()),
                 .copy = copied ? copy.data() : nullptr},
                kScalars, static_cast<std::int64_t>(begin), static_cast<std::int64_t>(count), set);
  }

  /// The formulas, each operation rounded to float32.
  void update_one_by_one(const std::vector<float>& gradients) {
    const AdamScalars& s = kScalars;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const float gradient = gradients[i] * s.gradient_scale;
      m[i] = s.beta1 * m[i] + s.one_minus_beta1 * gradient;
      v[i] = s.beta2 * v[i] + s.one_minus_beta2 * (gradient * gradient);
      weights[i] -= s.rate * m[i] / (std::sqrt(v[i]) * s.v_scale + s.eps);
      for (std::size_t k = 0; k < averages.size(); ++k)
        averages[k][i] += average_weight(k) * (weights[i] - averages[k][i]);
      copy[i] = BFloat16{comm::bfloat16_from_float(weights[i])};
    }
  }

  std::vector<std::uint32_t> bits() const {
    std::vector<std::uint32_t> bits;
    const auto append = [&](const std::vector<float>& values) {
      for (const float value : values) bits.push_back(std::bit_cast<std::uint32_t>(value));
    };
    append(weights), append(m), append(v);
    for (const std::vector<float>& average : averages) append(average);
    for (const BFloat16 value : copy) bits.push_back(static_cast<std::uint16_t>(value));
    return bits;
  }

  std::vector<float> weights, m, v;
  std::vector<std::vector<float>> averages;
  std::vector<BFloat16> copy;
};

std::vector<float> gradients_of(std::size_t count, unsigned step) {
  std::vector<float> gradients = random(count, 100 + step);
  gradients[3] = 0;
  gradients[4] = 1e-30F;  // its square is 0
  gradients[5] = 1e-21F;  // its square is subnormal
  return gradients;
}

TEST(AdamUpdate, RoundsAfterEveryOperationWithEveryInstructionSet) {
  constexpr std::size_t kCount = 400;
  for (const std::size_t averages : {0, 1, 3})
    for (const InstructionSet set : kSets) {
      if (!supports(set)) continue;
      State state(kCount, averages), reference(kCount, averages);
      for (unsigned step = 0; step < 20; ++step) {
        const std::vector<float> gradients = gradients_of(kCount, step);
        reference.update_one_by_one(gradients);
        state.update(gradients, 0, 160, true, set);
        state.update(gradients, 160, kCount - 160, true, set);
        ASSERT_EQ(state.bits(), reference.bits())
            << averages << " averages, step " << step << ", instruction set " << static_cast<int>(set);
      }
      EXPECT_EQ(static_cast<std::uint16_t>(state.copy[3]), 0x3F80) << "a tie goes to the even one";
    }
}

TEST(AdamUpdate, TouchesItsRangeAlone) {
  constexpr std::size_t kCount = 96;
  const std::vector<float> gradients = gradients_of(kCount, 0);
  for (const InstructionSet set : kSets) {
    if (!supports(set)) continue;
    State state(kCount, 2);
    const State before = state;
    state.update(gradients, 16, 32, false, set);
    const std::vector<std::uint32_t> now = state.bits(), then = before.bits();
    constexpr std::size_t kArrays = 5;
    for (std::size_t i = 0; i < now.size(); ++i) {
      const bool in_range = i < kArrays * kCount && i % kCount >= 16 && i % kCount < 48;
      if (!in_range) EXPECT_EQ(now[i], then[i]) << i;
    }
    EXPECT_NE(now, then);
  }
}

TEST(SumsOfSquares, AddEveryEighthSquareInOneChainWithEveryInstructionSet) {
  for (const std::size_t block : {8, 24, 4096})
    for (const std::size_t blocks : {0, 1, 3, 4, 11}) {
      std::vector<float> values = random(block * blocks, 5);
      if (blocks == 11) values[block] = 3e38F;  // its square is finite in float64 alone
      std::vector<double> expected(blocks);
      for (std::size_t b = 0; b < blocks; ++b) {
        double chains[8] = {};
        for (std::size_t i = 0; i < block; ++i) {
          const double value = values[b * block + i];
          chains[i % 8] += value * value;
        }
        expected[b] =
            ((chains[0] + chains[1]) + (chains[2] + chains[3])) + ((chains[4] + chains[5]) + (chains[6] + chains[7]));
      }
      for (const InstructionSet set : kSets) {
        if (!supports(set)) continue;
        std::vector<double> sums(blocks);
        sums_of_squares(values.data(), static_cast<std::int64_t>(block), static_cast<std::int64_t>(blocks), sums.data(),
                        set);
        EXPECT_EQ(sums, expected) << blocks << " blocks of " << block << ", instruction set " << static_cast<int>(set);
      }
    }
}

TEST(SumsOfSquares, ANonFiniteElementShows) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
    for (const InstructionSet set : kSets) {
      if (!supports(set)) continue;
      std::vector<float> values(5 * 16, 1.0F);
      values[2 * 16 + 7] = bad;
      std::vector<double> sums(5);
      sums_of_squares(values.data(), 16, 5, sums.data(), set);
      for (std::size_t b = 0; b < sums.size(); ++b) EXPECT_EQ(std::isfinite(sums[b]), b != 2);
    }
}

}  // namespace
}  // namespace perrin::trainer
