#include "trainer/evaluate/bound_points.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

namespace perrin::trainer {
namespace {

double estimated_sum(std::int64_t images, std::int64_t timesteps, double (*term)(double t)) {
  double sum = 0;
  for (const BoundPoint& point : bound_points(images, timesteps))
    sum += point.weight * term(static_cast<double>(point.t));
  return sum;
}

TEST(BoundPoints, AreOneForEachImageAndCountTheFirstTimestepOnce) {
  for (const auto& [images, timesteps] :
       {std::pair{64, 1000}, {2048, 1000}, {2048, 4000}, {5, 5}, {1000, 20}, {40, 1}}) {
    const auto points = bound_points(images, timesteps);
    ASSERT_EQ(points.size(), static_cast<std::size_t>(images));
    double first = 0;
    for (const BoundPoint& point : points) {
      ASSERT_GE(point.t, 0);
      ASSERT_LT(point.t, timesteps);
      if (point.t == 0) first += point.weight;
    }
    EXPECT_NEAR(first, 1, 1e-12) << images << ", " << timesteps;  // the decoder's term, often the greatest of all
  }
}

TEST(BoundPoints, WeighEveryTimestepOnceWhereImagesSuffice) {
  std::vector<double> weights(20, 0);
  for (const BoundPoint& point : bound_points(2000, 20)) weights[static_cast<std::size_t>(point.t)] += point.weight;
  for (const double weight : weights) EXPECT_NEAR(weight, 1, 1e-12);
}

TEST(BoundPoints, EstimateSumsOfTermsThatFallLikeThoseOfTheBound) {
  const auto falls = [](double t) { return 1 / (t + 1); };
  const auto falls_slowly = [](double t) { return std::pow(t + 1, -0.6); };
  const auto falls_fast = [](double t) { return std::pow(t + 1, -1.8); };
  for (double (*term)(double) : {+falls, +falls_slowly, +falls_fast}) {
    for (const auto& [images, timesteps] : {std::pair{64, 1000}, {256, 1000}, {2048, 1000}, {2048, 4000}, {64, 64}}) {
      double sum = 0;
      for (std::int64_t t = 0; t < timesteps; ++t) sum += term(static_cast<double>(t));
      EXPECT_NEAR(estimated_sum(images, timesteps, term) / sum, 1, 0.03) << images << ", " << timesteps;
    }
  }
}

TEST(BoundPoints, NeedAnImageAndATimestep) {
  EXPECT_THROW(bound_points(0, 10), std::invalid_argument);
  EXPECT_THROW(bound_points(10, 0), std::invalid_argument);
}

}  // namespace
}  // namespace perrin::trainer
