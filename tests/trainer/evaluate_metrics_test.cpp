#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <stdexcept>

#include "trainer/evaluate/feature_statistics.hpp"
#include "trainer/evaluate/frechet_distance.hpp"
#include "trainer/evaluate/inception_score.hpp"
#include "trainer/evaluate/kernel_distance.hpp"
#include "trainer/evaluate/keyed_subset.hpp"
#include "trainer/evaluate/precision_recall.hpp"
#include "trainer/random/keyed_noise.hpp"

namespace perrin::trainer {
namespace {

at::Tensor normals(std::int64_t rows, std::int64_t dimension, std::uint64_t seed) {
  std::vector<std::uint64_t> positions(static_cast<std::size_t>(rows));
  for (std::size_t i = 0; i < positions.size(); ++i) positions[i] = i;
  return keyed_normal({.seed = seed}, positions, {dimension}).to(at::kDouble);
}

at::Tensor diagonal(std::vector<double> values) { return at::diag(at::tensor(values, at::kDouble)); }

TEST(FeatureStatistics, AreThoseOfAllRowsFarFromZeroAndAnyPieces) {
  const at::Tensor features = normals(1500, 5, 1) * at::tensor({1.0, 2.0, 0.5, 3.0, 1.0}) + 1e6;
  const at::Tensor centred = features - features.mean(0);
  const at::Tensor expected = centred.t().mm(centred) / 1499;
  FeatureStatistics whole(5), pieces(5);
  whole.add(features);
  for (const at::Tensor& piece : features.split(37)) pieces.add(piece);
  EXPECT_EQ(pieces.count(), 1500);
  EXPECT_TRUE(at::equal(whole.mean(), pieces.mean()));
  EXPECT_TRUE(at::equal(whole.covariance(), pieces.covariance()));
  EXPECT_LT((whole.mean() - features.mean(0)).abs().max().item<double>(), 1e-8);
  EXPECT_LT((whole.covariance() - expected).abs().max().item<double>(), 1e-9);
  EXPECT_TRUE(at::equal(whole.covariance(), whole.covariance().t()));
}

TEST(FeatureStatistics, GoOnAfterTheyWereAsked) {
  const at::Tensor features = normals(1100, 3, 2);
  FeatureStatistics asked(3), whole(3);
  for (const at::Tensor& piece : features.split(100)) {
    asked.add(piece);
    asked.mean();
  }
  whole.add(features);
  EXPECT_TRUE(at::equal(asked.covariance(), whole.covariance()));
  EXPECT_THROW(asked.add(at::zeros({4, 2})), std::invalid_argument);
  EXPECT_THROW(FeatureStatistics(3).mean(), std::invalid_argument);
}

TEST(FrechetDistance, OfGaussiansOnCommonAxesIsThatOfTheirDeviations) {
  const GaussianFit a{at::tensor({0.0, 1.0, -2.0}, at::kDouble), diagonal({1, 4, 0.25})};
  const GaussianFit b{at::tensor({0.5, 1.0, 1.0}, at::kDouble), diagonal({9, 1, 0})};
  const double expected = 0.25 + 9 + std::pow(1 - 3, 2) + std::pow(2 - 1, 2) + 0.25;
  EXPECT_NEAR(frechet_distance(a, b), expected, 1e-12);
  const at::Tensor rotation = std::get<0>(at::linalg_qr(normals(3, 3, 3)));
  const auto turned = [&](const GaussianFit& fit) {
    return GaussianFit{rotation.mv(fit.mu), rotation.mm(fit.sigma).mm(rotation.t())};
  };
  EXPECT_NEAR(frechet_distance(turned(a), turned(b)), expected, 1e-12);
}

TEST(FrechetDistance, OfGaussiansOnOtherAxesFollowsTheTwoDimensionalRoot) {
  // tr (AB)^(1/2) = (tr AB + 2 (det AB)^(1/2))^(1/2) for 2x2 matrices with positive eigenvalues.
  const at::Tensor a = at::tensor({2.0, 0.5, 0.5, 1.0}, at::kDouble).view({2, 2});
  const at::Tensor b = at::tensor({1.0, -0.7, -0.7, 3.0}, at::kDouble).view({2, 2});
  const double root = std::sqrt(a.mm(b).trace().item<double>() + 2 * std::sqrt((2 - 0.25) * (3 - 0.49)));
  const at::Tensor zero = at::zeros({2}, at::kDouble);
  EXPECT_NEAR(frechet_distance({zero, a}, {zero, b}), 3 + 4 - 2 * root, 1e-12);
  EXPECT_NEAR(frechet_distance({zero, a}, {zero, a}), 0, 1e-12);
}

TEST(FrechetDistance, RefusesOtherDimensionsAndNumbersThatAreNotFinite) {
  const GaussianFit a{at::zeros({2}, at::kDouble), diagonal({1, 1})},
      b{at::zeros({3}, at::kDouble), diagonal({1, 1, 1})};
  const GaussianFit broken{at::zeros({2}, at::kDouble), diagonal({1, NAN})};
  EXPECT_THROW(frechet_distance(a, b), std::invalid_argument);
  EXPECT_THROW(frechet_distance(a, broken), std::invalid_argument);
}

TEST(FrechetDistance, ExtrapolatesToThatOfInfinitelyManySamples) {
  // Samples of the reference itself: the true distance is 0, and all that a finite sample shows is bias.
  const FrechetReference reference({at::zeros({8}, at::kDouble), at::eye(8, at::kDouble)});
  const at::Tensor samples = normals(4000, 8, 4);
  const auto points = extrapolation_points(4000, 8);
  ASSERT_EQ(points.size(), 15u);
  EXPECT_EQ(points.front(), 400);
  EXPECT_EQ(points.back(), 4000);
  const ExtrapolatedDistance extrapolated = extrapolated_distance(reference, samples, points);
  const double finite = reference.distance_to(fit_of(samples));
  EXPECT_NEAR(finite, (8 + 36.0 / 2) / 4000, 0.003);  // (tr S + sum of l_i l_j / (l_i + l_j) (1 + d_ij) / 2) / N
  EXPECT_LT(std::abs(extrapolated.distance), finite / 3);
  EXPECT_TRUE(extrapolation_points(31, 8).empty());
}

TEST(KernelDistance, OfTwoPointsIsThatOfTheKernel) {
  // Without the diagonal each pair is of equal points: k(a, a) + k(b, b) - 2 k(a, b), k = (x . y / 2 + 1)^3.
  const at::Tensor a = at::tensor({1.0, 1.0}).expand({4, 2}), b = at::tensor({2.0, 0.0}).expand({4, 2});
  EXPECT_NEAR(kernel_mmd2(a, b), 8 + 27 - 2 * 8, 1e-12);
  EXPECT_THROW(kernel_mmd2(a, b.narrow(0, 0, 3)), std::invalid_argument);
}

TEST(KernelDistance, HasNoBias) {
  // Of two samples of one distribution: as often below 0 as above.
  const KernelDistance distance = kernel_distance(normals(4000, 4, 5), normals(4000, 4, 6), 100, 50);
  EXPECT_EQ(distance.subsets, 100);
  EXPECT_EQ(distance.subset_size, 50);
  EXPECT_LT(std::abs(distance.mean), 4 * distance.deviation / 10);
  EXPECT_GT(distance.deviation, 0);
}

TEST(KernelDistance, TakesWholeSetsThatAreSmallerThanASubset) {
  const at::Tensor a = normals(20, 3, 7), b = normals(20, 3, 8) + 1;
  const KernelDistance distance = kernel_distance(a, b);
  EXPECT_EQ(distance.subset_size, 20);
  EXPECT_NEAR(distance.mean, kernel_mmd2(a, b), 1e-12 * std::abs(distance.mean));
}

TEST(KeyedSubset, IsOfDifferentRowsThatEveryRowIsEquallyOftenIn) {
  std::vector<int> times(10);
  for (std::uint32_t number = 0; number < 2000; ++number) {
    const at::Tensor subset = keyed_subset(SubsetOf::kid_samples, number, 10, 4);
    std::set<std::int64_t> rows(subset.const_data_ptr<std::int64_t>(), subset.const_data_ptr<std::int64_t>() + 4);
    ASSERT_EQ(rows.size(), 4u);
    for (const std::int64_t row : rows) ++times.at(static_cast<std::size_t>(row));
  }
  for (const int count : times) EXPECT_NEAR(count, 800, 110);  // five standard deviations
  EXPECT_TRUE(at::equal(std::get<0>(keyed_subset(SubsetOf::kid_samples, 0, 7, 7).sort()), at::arange(7)));
  EXPECT_FALSE(
      at::equal(keyed_subset(SubsetOf::kid_samples, 0, 50, 9), keyed_subset(SubsetOf::kid_reference, 0, 50, 9)));
  EXPECT_THROW(keyed_subset(SubsetOf::kid_samples, 0, 3, 4), std::invalid_argument);
}

TEST(InceptionScore, IsTheNumberOfClassesOfCertainAndEvenImagesAndOneOfEqualImages) {
  const InceptionScore even = inception_score(at::eye(4, at::kDouble).repeat({10, 1}), 10);
  EXPECT_NEAR(even.mean, 4, 1e-12);
  EXPECT_NEAR(even.deviation, 0, 1e-12);
  EXPECT_NEAR(inception_score(at::full({30, 5}, 0.2), 3).mean, 1, 1e-7);  // 0.2 in float32
  EXPECT_THROW(inception_score(at::full({9, 5}, 0.2), 10), std::invalid_argument);
}

TEST(PrecisionRecall, CountsWhatLiesWithinTheOtherManifold) {
  const at::Tensor reference = at::arange(0, 10, at::kDouble).view({10, 1});
  // Balls reach to the third neighbour: 3 at the ends, 2 elsewhere; the manifold is [-3, 12].
  const at::Tensor samples = at::tensor({-3.0, -2.9, 12.0, 12.1, 100.0}, at::kDouble).view({5, 1});
  const PrecisionRecall result = precision_recall(samples, reference);
  EXPECT_DOUBLE_EQ(result.precision, 3.0 / 5);  // closed balls
  EXPECT_DOUBLE_EQ(result.recall, 1);           // every ball of five points so far apart holds all of it
  EXPECT_DOUBLE_EQ(precision_recall(reference, reference).precision, 1);
  EXPECT_DOUBLE_EQ(precision_recall(reference + 1000, reference).recall, 0);
  EXPECT_THROW(precision_recall(samples.narrow(0, 0, 3), reference), std::invalid_argument);
}

TEST(PrecisionRecall, IsTheSameOverSeveralBlocksOfRows) {
  const at::Tensor a = normals(1300, 3, 9), b = normals(1100, 3, 10) * 0.5;
  const at::Tensor distances = at::cdist(a, b), within_b = at::cdist(b, b), within_a = at::cdist(a, a);
  const at::Tensor radii_b = std::get<0>(within_b.kthvalue(4, 1)), radii_a = std::get<0>(within_a.kthvalue(4, 1));
  const PrecisionRecall result = precision_recall(a, b);
  EXPECT_NEAR(result.precision, (distances <= radii_b).any(1).to(at::kDouble).mean().item<double>(), 1e-12);
  EXPECT_NEAR(result.recall, (distances.t() <= radii_a).any(1).to(at::kDouble).mean().item<double>(), 1e-12);
}

}  // namespace
}  // namespace perrin::trainer
