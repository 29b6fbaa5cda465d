#include "launch/scaling_model.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace perrin::launch {
namespace {

constexpr double kParameters = 35'746'307;

// The same model worked out independently for 8 GPUs a node, in microseconds.
TEST(AllReduceModel, GivesTheTableOfTheReference) {
  struct Row {
    double bytes;
    int ranks;
    double microseconds;
  };
  const Row rows[] = {{71.5e6, 8, 303},   {71.5e6, 16, 439},   {71.5e6, 64, 541}, {71.5e6, 128, 586},
                      {71.5e6, 256, 610}, {71.5e6, 1024, 644}, {143e6, 8, 581},   {143e6, 16, 812},
                      {143e6, 64, 932},   {592e6, 8, 2326},    {592e6, 16, 3131}, {1.184e9, 64, 6623}};
  for (const Row& row : rows)
    EXPECT_NEAR(Fabric::h100_400g().best(row.bytes, row.ranks, 8).seconds(row.bytes, row.ranks) * 1e6, row.microseconds,
                0.01 * row.microseconds)
        << row.bytes << " bytes on " << row.ranks;
}

TEST(AllReduceModel, TakesAMeasurementAsItIs) {
  const AllReduceCost cost = Fabric::measured(1e-3, 2e9).best(4e6, 4, 2);
  EXPECT_DOUBLE_EQ(cost.seconds(4e6, 4), 1e-3 + 1.5 * 4e6 / 2e9);
  EXPECT_EQ(cost.seconds(4e6, 1), 0);
}

StepLoad load(double compute, double bucket) {
  return {.compute_seconds = compute, .optimizer_seconds = 0.1, .gradient_bytes = 12e6, .bucket_bytes = bucket};
}

TEST(StepModel, OneRankPaysNothing) {
  for (const auto way : {Communication::after_backward, Communication::overlapped, Communication::sharded}) {
    const StepPrediction one = predict_step(load(3.0, 4e6), way, Fabric::measured(1, 1e6), 1, 1);
    EXPECT_DOUBLE_EQ(one.seconds, 3.1);
    EXPECT_DOUBLE_EQ(one.efficiency, 1);
  }
}

// 12 MB at 12 MB/s of bus bandwidth on 2 ranks: 1 s in all, without latency; backward lasts 2 s.
TEST(StepModel, HidesAllButTheLastBucketUnderALongBackward) {
  const Fabric wire = Fabric::measured(0, 12e6);
  const StepPrediction apart = predict_step(load(3.0, 2e6), Communication::after_backward, wire, 2, 2);
  EXPECT_DOUBLE_EQ(apart.communication_seconds, 1);
  EXPECT_DOUBLE_EQ(apart.exposed_seconds, 1);
  EXPECT_DOUBLE_EQ(apart.seconds, 4.1);
  const StepPrediction overlapped = predict_step(load(3.0, 2e6), Communication::overlapped, wire, 2, 2);
  EXPECT_DOUBLE_EQ(overlapped.communication_seconds, 1);
  constexpr double kLast = (12e6 - 1048576 - 5 * 2e6) / 12e6, kOneBucket = 2e6 / 12e6;
  EXPECT_NEAR(overlapped.exposed_seconds, (kOneBucket - 2 * kLast) + kLast, 1e-9)
      << "the last bucket, ready at the end, and what the one before it, ready 2 kLast earlier, has left";
}

TEST(StepModel, AShortBackwardHidesNoMoreThanItself) {
  const StepPrediction p = predict_step(load(0.3, 2e6), Communication::overlapped, Fabric::measured(0, 12e6), 2, 2);
  EXPECT_GT(p.exposed_seconds, 1 - 0.2);
  EXPECT_LT(p.exposed_seconds, 1);
  EXPECT_EQ(bound_of(load(0.3, 2e6), p, Communication::overlapped), "bandwidth of the network");
}

TEST(StepModel, ShardingDividesTheOptimizerAndShowsTheWeights) {
  const Fabric wire = Fabric::measured(0, 12e6);
  const StepPrediction p = predict_step(load(3.0, 2e6), Communication::sharded, wire, 2, 2);
  EXPECT_DOUBLE_EQ(p.communication_seconds, 1) << "half out, half back";
  EXPECT_NEAR(p.exposed_seconds, 0.5 + 0.5 * (12e6 - 1048576 - 5 * 2e6) / 12e6, 1e-9) << "the wire is never behind";
  EXPECT_NEAR(p.seconds, 3.0 + p.exposed_seconds + 0.05, 1e-9);
}

TEST(StepModel, SaysThatSmallBucketsAreBoundByLatency) {
  const Fabric wire = Fabric::measured(0.5, 1e9);
  const StepPrediction p = predict_step(load(3.0, 1e6), Communication::overlapped, wire, 2, 2);
  EXPECT_GT(p.latency_share, 0.9);
  EXPECT_THAT(bound_of(load(3.0, 1e6), p, Communication::overlapped), testing::HasSubstr("distributed.bucket_mib"));
}

// Weak scaling of the CIFAR network at 128 images a GPU: 13.75 ms, bf16 gradients, as the reference has it.
TEST(StepModel, IsNearTheEfficiencyOfTheReference) {
  const StepLoad cifar{.compute_seconds = 13.3e-3,
                       .optimizer_seconds = 0.45e-3,
                       .gradient_bytes = 2 * kParameters,
                       .bucket_bytes = 2 * kParameters / 3.5};
  EXPECT_NEAR(predict_step(cifar, Communication::overlapped, Fabric::h100_400g(), 8, 8).efficiency, 0.996, 0.01);
  EXPECT_NEAR(predict_step(cifar, Communication::after_backward, Fabric::h100_400g(), 8, 8).efficiency, 0.978, 0.002);
  EXPECT_NEAR(predict_step(cifar, Communication::after_backward, Fabric::h100_400g(), 256, 8).efficiency, 0.958, 0.003);
}

}  // namespace
}  // namespace perrin::launch
