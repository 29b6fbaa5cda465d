#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "comm/data_type.hpp"
#include "comm/flight_recorder.hpp"
#include "comm/work.hpp"

namespace perrin::comm {

/// A slower wire than the machine has: for measuring how much of the communication computation hides.
struct SimulatedWire {
  std::chrono::nanoseconds latency{0};
  double bytes_per_second = 0;  ///< of an operation's larger buffer (the algbw of `perrin bench comm`); 0: unlimited

  std::chrono::nanoseconds time_of(std::uint64_t bytes) const noexcept {
    const double transfer = bytes_per_second > 0 ? static_cast<double>(bytes) / bytes_per_second : 0;
    return latency + std::chrono::nanoseconds(static_cast<std::int64_t>(transfer * 1e9));
  }
};

/// How a communicator behaves; equal on all its ranks.
struct CommunicatorOptions {
  /// How long Work::wait() waits when not told otherwise.
  std::chrono::milliseconds deadline{30'000};
  /// Host backend: larger operations are cut into pieces of so many bytes, in [1, INT_MAX]. Bounds messages and staging
  /// memory. Measured on 2 ranks of one node, 143 MB: 64 ms with 4 MiB, 116 ms with 1 MiB, MPI_Allreduce 369 ms
  /// (minima).
  std::size_t piece_bytes = std::size_t{4} << 20;
  /// Host backend: how long a caller that waits polls before it sleeps between polls. Longer answers sooner, and is for
  /// ranks that have a core each: where they share cores the peer that is waited for may need this one.
  std::chrono::microseconds spin{50};
  /// Host backend: ranks that are all on one node reduce through memory that they share, where the node allows it. If
  /// false, or on several nodes, everything goes over MPI messages.
  bool share_node_memory = true;
  /// Host backend: no operation is done sooner after its start than this wire would need.
  SimulatedWire wire = {};
  /// Where its operations are recorded, and watched.
  FlightTrack flight = {};
};

/// Collectives over raw memory among a fixed set of ranks. Every rank submits the same operations, with the same counts
/// and types, in the same order; they start and finish in that order. Each call returns at once; the buffers belong to
/// the communicator until the Work is done. Not for concurrent submission from several threads: the order would differ
/// between ranks.
///
/// Where buffers live is the backend's: host memory, or memory of the rank's device. `compute_stream` (a cudaStream_t)
/// is the stream whose earlier work produces the input; host backends ignore it.
///
/// Reductions on the host take place in float32 for bfloat16 and in the type itself otherwise, in one fixed binary tree
/// over the ranks: all ranks receive the same bits, and the same bits again in every run of the same size.
///
/// All operations throw std::invalid_argument for a null pointer with a count above 0, a root outside [0, size()) or
/// forbidden overlap, and CommError when this communicator has failed before.
class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  virtual int rank() const noexcept = 0;
  virtual int size() const noexcept = 0;
  /// "local", "mpi" or "nccl".
  virtual std::string_view backend() const noexcept = 0;
  /// True once an operation has failed or was withdrawn: this communicator takes no more.
  virtual bool failed() const noexcept = 0;

  /// data[count] becomes the reduction of all ranks' data, in place.
  virtual Work all_reduce(void* data, std::size_t count, DataType type, ReduceOp op,
                          void* compute_stream = nullptr) = 0;
  /// output[count] becomes part rank() of the reduction of input[size() * count]. output may be that part of input.
  virtual Work reduce_scatter(const void* input, void* output, std::size_t count, DataType type, ReduceOp op,
                              void* compute_stream = nullptr) = 0;
  /// output[size() * count] becomes all ranks' input[count] in rank order. input may be part rank() of output.
  virtual Work all_gather(const void* input, void* output, std::size_t count, DataType type,
                          void* compute_stream = nullptr) = 0;
  /// Part r of output[size() * count] becomes part rank() of rank r's input[size() * count]. The buffers must not
  /// overlap.
  virtual Work all_to_all(const void* input, void* output, std::size_t count, DataType type,
                          void* compute_stream = nullptr) = 0;
  /// data[count] becomes the root's.
  virtual Work broadcast(void* data, std::size_t count, DataType type, int root, void* compute_stream = nullptr) = 0;
  /// Done when every rank has submitted it.
  virtual Work barrier() = 0;

  template <typename T>
  Work all_reduce(std::span<T> data, ReduceOp op) {
    return all_reduce(data.data(), data.size(), DataTypeOf<T>::value, op);
  }
  /// @throws std::invalid_argument unless input.size() == size() * output.size()
  template <typename T>
  Work reduce_scatter(std::span<const T> input, std::span<T> output, ReduceOp op) {
    require_parts(input.size(), output.size());
    return reduce_scatter(input.data(), output.data(), output.size(), DataTypeOf<T>::value, op);
  }
  /// @throws std::invalid_argument unless output.size() == size() * input.size()
  template <typename T>
  Work all_gather(std::span<const T> input, std::span<T> output) {
    require_parts(output.size(), input.size());
    return all_gather(input.data(), output.data(), input.size(), DataTypeOf<T>::value);
  }
  /// @throws std::invalid_argument unless both have size() * n elements
  template <typename T>
  Work all_to_all(std::span<const T> input, std::span<T> output) {
    require_parts(input.size(), output.size() / static_cast<std::size_t>(size()));
    require_parts(output.size(), output.size() / static_cast<std::size_t>(size()));
    return all_to_all(input.data(), output.data(), output.size() / static_cast<std::size_t>(size()),
                      DataTypeOf<T>::value);
  }
  template <typename T>
  Work broadcast(std::span<T> data, int root) {
    return broadcast(data.data(), data.size(), DataTypeOf<T>::value, root);
  }
  /// One value reduced over all ranks, waited for.
  template <typename T>
  T all_reduce_value(T value, ReduceOp op) {
    all_reduce(std::span<T>(&value, 1), op).wait();
    return value;
  }

 protected:
  Communicator() = default;

  /// @throws std::invalid_argument as the class says
  static void require_buffer(const void* data, std::size_t count);
  void require_root(int root) const;
  /// The input of an all_gather and the output of a reduce_scatter may be apart from the whole, or exactly part rank()
  /// of it.
  void require_own_part(const void* whole, const void* part, std::size_t part_bytes) const;
  static void require_apart(const void* a, const void* b, std::size_t bytes);

 private:
  void require_parts(std::size_t whole, std::size_t part) const;
};

}  // namespace perrin::comm
