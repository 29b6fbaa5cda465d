#include "launch/scaling_model.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace perrin::launch {
namespace {

constexpr double kMicrosecond = 1e-6, kGigabyte = 1e9;

/// What NCCL chooses from: latency = base + intra * (steps inside a node) + inter * (steps between nodes).
/// Latencies: NCCL 2.28.9, src/graph/tuning.cc (Hopper columns). Bus bandwidths are the reach of 8 x H100 and 8 x 400
/// Gb/s: NVLS inside a node was measured by others at 460 to 480 GB/s; the rest are assumptions below the 400 GB/s of a
/// node's network cards. LL128 carries 120 bytes of data in each 128. None was measured by perrin.
struct Algorithm {
  std::string_view name;
  double base_us, intra_us, inter_us, busbw_gb;
};
constexpr Algorithm kRing{"ring", 8.4, 3.4, 14.0, 370};
constexpr Algorithm kTree{"tree", 8.4, 4.0, 14.0, 310};
constexpr Algorithm kTreeLL128{"tree LL128", 14.0, 1.25, 8.5, 310 * 120.0 / 128};
constexpr Algorithm kNvls{"NVLS", 25.0, 0.0, 0.0, 450};
constexpr Algorithm kNvlsTree{"NVLS tree", 25.0, 0.0, 20.9, 360};
/// NCCL's kernels take 16 of the 132 SMs of an H100 from what runs beside them.
constexpr double kTaxWhileCommunicating = 16.0 / 132.0;

/// Backward costs twice the forward pass: two convolutions of the same size for one.
constexpr double kBackwardShare = 2.0 / 3.0;
/// The first bucket is small (gradient_reducer.cpp).
constexpr double kFirstBucketBytes = 1 << 20;
/// Above this share of the step a cause is named.
constexpr double kWorthNaming = 0.05;

AllReduceCost cost_of(const Algorithm& algorithm, double intra_steps, double inter_steps) {
  return {algorithm.name,
          (algorithm.base_us + algorithm.intra_us * intra_steps + algorithm.inter_us * inter_steps) * kMicrosecond,
          algorithm.busbw_gb * kGigabyte};
}

std::vector<AllReduceCost> nccl_choices(int ranks, int ranks_per_node) {
  const double nodes = std::ceil(static_cast<double>(ranks) / ranks_per_node);
  const double local = std::min(ranks, ranks_per_node);
  const double hops = 2 * (local - 1), rounds = 2 * std::log2(nodes);
  std::vector<AllReduceCost> choices = {
      cost_of(kRing, 2.0 * (ranks - 1) - (nodes > 1 ? 2 * (nodes - 1) : 0), nodes > 1 ? 2 * (nodes - 1) : 0),
      cost_of(kTree, hops, rounds), cost_of(kTreeLL128, hops, rounds)};
  choices.push_back(nodes > 1 ? cost_of(kNvlsTree, 0, rounds) : cost_of(kNvls, 0, 0));
  return choices;
}

std::vector<double> cut(double bytes, double cap) {
  std::vector<double> buckets;
  for (double left = bytes; left > 0; left -= buckets.back())
    buckets.push_back(std::min(left, buckets.empty() ? std::min(kFirstBucketBytes, cap) : cap));
  return buckets;
}

}  // namespace

double AllReduceCost::seconds(double bytes, int ranks) const {
  return ranks == 1 ? 0 : latency_seconds + 2.0 * (ranks - 1) / ranks * bytes / busbw;
}

AllReduceCost Fabric::best(double bytes, int ranks, int ranks_per_node) const {
  if (busbw > 0) return {"as measured", latency_seconds, busbw};
  const auto choices = nccl_choices(ranks, ranks_per_node);
  return *std::min_element(choices.begin(), choices.end(), [&](const AllReduceCost& a, const AllReduceCost& b) {
    return a.seconds(bytes, ranks) < b.seconds(bytes, ranks);
  });
}

StepPrediction predict_step(const StepLoad& load, Communication communication, const Fabric& fabric, int ranks,
                            int ranks_per_node) {
  const bool sharded = communication == Communication::sharded, apart = communication == Communication::after_backward;
  const double forward = load.compute_seconds * (1 - kBackwardShare), backward = load.compute_seconds * kBackwardShare;
  const auto seconds_of = [&](double bytes, StepPrediction& sum) {
    const AllReduceCost cost = fabric.best(bytes, ranks, ranks_per_node);
    const double moved = cost.seconds(bytes, ranks) - (ranks > 1 ? cost.latency_seconds : 0);
    const double half = sharded ? 0.5 : 1;  // a reduce-scatter or an all-gather is half of an all-reduce
    const double latency = ranks > 1 ? cost.latency_seconds * half : 0;
    sum.latency_share += latency;
    sum.communication_seconds += latency + moved * half;
    return latency + moved * half;
  };

  StepPrediction p;
  double gradients_done = forward, arrived = 0;
  const auto buckets = cut(load.gradient_bytes, load.bucket_bytes);
  for (const double bytes : apart ? std::vector{load.gradient_bytes} : buckets) {
    arrived += bytes;  // backward makes gradients at an even pace
    const double ready = forward + backward * (apart ? 1.0 : arrived / load.gradient_bytes);
    gradients_done = std::max(gradients_done, ready) + seconds_of(bytes, p);
  }
  const double hidden = p.communication_seconds - std::max(0.0, gradients_done - load.compute_seconds);
  const double tax = fabric.busbw > 0 ? 0 : hidden * kTaxWhileCommunicating;
  p.exposed_seconds = std::max(0.0, gradients_done - load.compute_seconds) + tax;
  if (sharded) {  // weights go back in the same buckets, with nothing to hide under
    const double before = p.communication_seconds;
    for (const double bytes : buckets) seconds_of(bytes, p);
    p.exposed_seconds += p.communication_seconds - before;
  }
  p.latency_share = p.communication_seconds > 0 ? p.latency_share / p.communication_seconds : 0;
  p.seconds = load.compute_seconds + p.exposed_seconds + load.optimizer_seconds / (sharded ? ranks : 1);
  p.efficiency = (load.compute_seconds + load.optimizer_seconds) / p.seconds;
  return p;
}

std::string bound_of(const StepLoad& load, const StepPrediction& prediction, Communication communication) {
  if (prediction.exposed_seconds > kWorthNaming * prediction.seconds)
    return prediction.latency_share > 0.5 ? "latency: raise distributed.bucket_mib" : "bandwidth of the network";
  if (communication != Communication::sharded && load.optimizer_seconds > kWorthNaming * prediction.seconds)
    return "compute, then the optimizer (optimizer.shard)";
  return "compute";
}

}  // namespace perrin::launch
