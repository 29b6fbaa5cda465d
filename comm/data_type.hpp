#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace perrin::comm {

/// Element types that collectives move and reduce. bfloat16 is the upper half of an IEEE float32.
enum class DataType { float32, bfloat16, float64, int64, uint8 };

/// Element-wise reductions. sum wraps for int64 and uint8; max and min propagate NaN.
enum class ReduceOp { sum, max, min };

/// Bytes of one element.
constexpr std::size_t size_of(DataType type) noexcept {
  switch (type) {
    case DataType::float32:
      return 4;
    case DataType::bfloat16:
      return 2;
    case DataType::float64:
    case DataType::int64:
      return 8;
    case DataType::uint8:
      return 1;
  }
  return 0;
}

/// "float32", "bfloat16", ...
std::string_view name_of(DataType type) noexcept;

/// "sum", "max", "min".
std::string_view name_of(ReduceOp op) noexcept;

/// The DataType of a C++ element type; defined for float, double, std::int64_t and std::uint8_t.
template <typename T>
struct DataTypeOf;
template <>
struct DataTypeOf<float> {
  static constexpr DataType value = DataType::float32;
};
template <>
struct DataTypeOf<double> {
  static constexpr DataType value = DataType::float64;
};
template <>
struct DataTypeOf<std::int64_t> {
  static constexpr DataType value = DataType::int64;
};
template <>
struct DataTypeOf<std::uint8_t> {
  static constexpr DataType value = DataType::uint8;
};

}  // namespace perrin::comm
