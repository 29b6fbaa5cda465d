#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "comm/bfloat16.hpp"
#include "comm/data_type.hpp"
#include "tests/comm/backend.hpp"

namespace perrin::comm::test {

/// Whole numbers written as elements of any type, so that every sum in a test is exact in each of them; in memory of
/// the backend under test.
/// @param shift  bytes before the first element: 1 makes a buffer that is aligned for nothing. Elements before it where
/// the backend aligns elements
class Elements {
 public:
  Elements(DataType type, std::size_t count, std::size_t shift = 0)
      : type_(type), count_(count), shift_(aligns_elements() ? shift * size_of(type) : shift) {
    bytes_ = allocate(count * size_of(type) + shift_);
  }

  std::byte* data() { return bytes_.get() + shift_; }
  std::size_t count() const { return count_; }

  void set(std::size_t i, std::int64_t value) {
    switch (type_) {
      case DataType::float32:
        return put(i, static_cast<float>(value));
      case DataType::bfloat16:
        return put(i, bfloat16_from_float(static_cast<float>(value)));
      case DataType::float64:
        return put(i, static_cast<double>(value));
      case DataType::int64:
        return put(i, value);
      case DataType::uint8:
        return put(i, static_cast<std::uint8_t>(value));
    }
  }
  std::int64_t get(std::size_t i) const {
    switch (type_) {
      case DataType::float32:
        return static_cast<std::int64_t>(take<float>(i));
      case DataType::bfloat16:
        return static_cast<std::int64_t>(float_from_bfloat16(take<std::uint16_t>(i)));
      case DataType::float64:
        return static_cast<std::int64_t>(take<double>(i));
      case DataType::int64:
        return take<std::int64_t>(i);
      case DataType::uint8:
        return take<std::uint8_t>(i);
    }
    return 0;
  }
  std::vector<std::int64_t> values() const {
    std::vector<std::int64_t> all(count());
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = get(i);
    return all;
  }

 private:
  template <typename T>
  void put(std::size_t i, T value) {
    std::memcpy(data() + i * sizeof(T), &value, sizeof(T));
  }
  template <typename T>
  T take(std::size_t i) const {
    T value;
    std::memcpy(&value, bytes_.get() + shift_ + i * sizeof(T), sizeof(T));
    return value;
  }

  DataType type_;
  std::size_t count_;
  std::size_t shift_;
  std::shared_ptr<std::byte> bytes_;
};

/// What rank r holds at index i: in [0, 50], so that four of them fit uint8 and are exact in bfloat16.
inline std::int64_t element_of(int rank, std::size_t i) {
  return static_cast<std::int64_t>((i * 7 + static_cast<std::size_t>(rank) * 13) % 51);
}

}  // namespace perrin::comm::test
