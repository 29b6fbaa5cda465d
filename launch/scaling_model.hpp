#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

/// How long a training step takes on N ranks, from that of one rank and an alpha-beta model of the all-reduce. All
/// constants stand in one table in scaling_model.cpp, each with its source.
namespace perrin::launch {

/// How an all-reduce of so many ranks is carried out: latency and bus bandwidth, as nccl-tests counts it.
struct AllReduceCost {
  std::string_view algorithm;
  double latency_seconds = 0;
  double busbw = 0;  ///< bytes a second

  /// latency + 2 (n-1)/n bytes / busbw; half of the second term for a reduce-scatter or an all-gather.
  double seconds(double bytes, int ranks) const;
};

/// What the ranks talk through.
struct Fabric {
  /// Of all ranks by NCCL on nodes of 8 H100 with NVLink, and a 400 Gb/s card for each GPU.
  static Fabric h100_400g() { return {}; }
  /// Of a measurement by `perrin bench comm` on the ranks in question.
  static Fabric measured(double latency_seconds, double busbw) { return {latency_seconds, busbw}; }

  double latency_seconds = 0;  ///< busbw = 0: NCCL's table
  double busbw = 0;

  /// The fastest way to all-reduce `bytes`. @param ranks, ranks_per_node  at least 1
  AllReduceCost best(double bytes, int ranks, int ranks_per_node) const;
};

/// One rank's step without communication, and what it communicates.
struct StepLoad {
  double compute_seconds = 0;    ///< forward and backward of the rank's images
  double optimizer_seconds = 0;  ///< clip, Adam, EMA over all parameters
  double gradient_bytes = 0;
  double bucket_bytes = 0;  ///< cap of one bucket
};

enum class Communication {
  after_backward,  ///< one all-reduce when all gradients are there
  overlapped,      ///< buckets leave while backward goes on: perrin's own way
  sharded          ///< ZeRO-1: reduce-scatter overlapped, each rank updates its part, all-gather of the weights
};

struct StepPrediction {
  double seconds = 0;
  double communication_seconds = 0;  ///< of all buckets, one after the other
  double exposed_seconds = 0;        ///< of it, not hidden under backward
  double latency_share = 0;          ///< of communication_seconds: what larger buckets would save most of
  double efficiency = 1;             ///< the step without communication over this one
};

/// @param ranks, ranks_per_node  at least 1
StepPrediction predict_step(const StepLoad& load, Communication communication, const Fabric& fabric, int ranks,
                            int ranks_per_node);

/// What bounds a predicted step, in words for the last column of a table.
std::string bound_of(const StepLoad& load, const StepPrediction& prediction, Communication communication);

}  // namespace perrin::launch
