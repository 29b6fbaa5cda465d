#include "comm/comm_error.hpp"

#include <fmt/format.h>

#include <utility>

namespace perrin::comm {
namespace {

std::string message(const OperationId& id, const std::string& reason) {
  if (id.sequence == 0) return fmt::format("rank {}: {}: {}", id.rank, id.operation, reason);
  return fmt::format("rank {}: {} #{} ({} bytes): {}", id.rank, id.operation, id.sequence, id.bytes, reason);
}

}  // namespace

CommError::CommError(OperationId id, const std::string& reason, std::vector<int> late_ranks)
    : std::runtime_error(message(id, reason)), id_(std::move(id)), late_ranks_(std::move(late_ranks)) {}

}  // namespace perrin::comm
