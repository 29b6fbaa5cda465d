#pragma once

#include <cstddef>

#include "comm/communicator.hpp"

namespace perrin::trainer::test {

/// Counts what is submitted, and passes it on.
class CountingCommunicator final : public comm::Communicator {
 public:
  explicit CountingCommunicator(comm::Communicator& inner) : inner_(inner) {}

  int submitted() const { return submitted_; }
  /// Of the larger buffer of each collective, as the flight recorder counts them.
  std::size_t bytes() const { return bytes_; }

  int rank() const noexcept override { return inner_.rank(); }
  int size() const noexcept override { return inner_.size(); }
  std::string_view backend() const noexcept override { return inner_.backend(); }
  bool failed() const noexcept override { return inner_.failed(); }
  comm::Work all_reduce(void* data, std::size_t count, comm::DataType type, comm::ReduceOp op, void* stream) override {
    note(count, type, 1);
    return inner_.all_reduce(data, count, type, op, stream);
  }
  comm::Work reduce_scatter(const void* input, void* output, std::size_t count, comm::DataType type, comm::ReduceOp op,
                            void* stream) override {
    note(count, type, size());
    return inner_.reduce_scatter(input, output, count, type, op, stream);
  }
  comm::Work all_gather(const void* input, void* output, std::size_t count, comm::DataType type,
                        void* stream) override {
    note(count, type, size());
    return inner_.all_gather(input, output, count, type, stream);
  }
  comm::Work all_to_all(const void* input, void* output, std::size_t count, comm::DataType type,
                        void* stream) override {
    note(count, type, size());
    return inner_.all_to_all(input, output, count, type, stream);
  }
  comm::Work broadcast(void* data, std::size_t count, comm::DataType type, int root, void* stream) override {
    note(count, type, 1);
    return inner_.broadcast(data, count, type, root, stream);
  }
  comm::Work barrier() override { return inner_.barrier(); }

 private:
  void note(std::size_t count, comm::DataType type, int parts) {
    ++submitted_;
    bytes_ += count * static_cast<std::size_t>(parts) * comm::size_of(type);
  }

  comm::Communicator& inner_;
  int submitted_ = 0;
  std::size_t bytes_ = 0;
};

}  // namespace perrin::trainer::test
