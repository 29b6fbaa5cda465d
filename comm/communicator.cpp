#include "comm/communicator.hpp"

#include <fmt/format.h>

#include <stdexcept>

namespace perrin::comm {
namespace {

bool overlap(const void* a, std::size_t a_bytes, const void* b, std::size_t b_bytes) {
  const auto a_begin = reinterpret_cast<std::uintptr_t>(a);
  const auto b_begin = reinterpret_cast<std::uintptr_t>(b);
  return a_begin < b_begin + b_bytes && b_begin < a_begin + a_bytes;
}

}  // namespace

void Communicator::require_buffer(const void* data, std::size_t count) {
  if (data == nullptr && count > 0)
    throw std::invalid_argument(fmt::format("null buffer for a collective of {} elements", count));
}

void Communicator::require_root(int root) const {
  if (root < 0 || root >= size())
    throw std::invalid_argument(fmt::format("broadcast root {} is outside [0, {})", root, size()));
}

void Communicator::require_own_part(const void* whole, const void* part, std::size_t part_bytes) const {
  const auto ranks = static_cast<std::size_t>(size());
  if (!overlap(whole, ranks * part_bytes, part, part_bytes)) return;
  if (part == static_cast<const std::byte*>(whole) + static_cast<std::size_t>(rank()) * part_bytes) return;
  throw std::invalid_argument(
      fmt::format("input and output overlap other than at part {} of the larger buffer", rank()));
}

void Communicator::require_apart(const void* a, const void* b, std::size_t bytes) {
  if (overlap(a, bytes, b, bytes)) throw std::invalid_argument("input and output of an all_to_all overlap");
}

void Communicator::require_parts(std::size_t whole, std::size_t part) const {
  if (whole != static_cast<std::size_t>(size()) * part) {
    throw std::invalid_argument(
        fmt::format("a buffer of {} elements is not {} parts of {} elements", whole, size(), part));
  }
}

}  // namespace perrin::comm
