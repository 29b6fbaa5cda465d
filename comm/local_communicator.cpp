#include "comm/local_communicator.hpp"

#include <cstring>

namespace perrin::comm {
namespace {

void copy(const void* input, void* output, std::size_t bytes) {
  if (bytes > 0 && input != output) std::memcpy(output, input, bytes);
}

}  // namespace

Work LocalCommunicator::all_reduce(void* data, std::size_t count, DataType /*type*/, ReduceOp /*op*/,
                                   void* /*compute_stream*/) {
  require_buffer(data, count);
  return {};
}

Work LocalCommunicator::reduce_scatter(const void* input, void* output, std::size_t count, DataType type,
                                       ReduceOp /*op*/, void* compute_stream) {
  return all_gather(input, output, count, type, compute_stream);
}

Work LocalCommunicator::all_gather(const void* input, void* output, std::size_t count, DataType type,
                                   void* /*compute_stream*/) {
  require_buffer(input, count);
  require_buffer(output, count);
  const std::size_t bytes = count * size_of(type);
  require_own_part(output, input, bytes);
  copy(input, output, bytes);
  return {};
}

Work LocalCommunicator::all_to_all(const void* input, void* output, std::size_t count, DataType type,
                                   void* /*compute_stream*/) {
  require_buffer(input, count);
  require_buffer(output, count);
  const std::size_t bytes = count * size_of(type);
  require_apart(input, output, bytes);
  copy(input, output, bytes);
  return {};
}

Work LocalCommunicator::broadcast(void* data, std::size_t count, DataType /*type*/, int root,
                                  void* /*compute_stream*/) {
  require_buffer(data, count);
  require_root(root);
  return {};
}

Work LocalCommunicator::barrier() { return {}; }

}  // namespace perrin::comm
