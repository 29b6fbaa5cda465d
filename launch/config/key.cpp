#include "launch/config/key.hpp"

#include <cmath>

namespace perrin::launch {
namespace {

std::string bound(double value) {
  const bool whole = std::abs(value) < 1e15 && value == std::floor(value);
  return to_toml(whole ? Value(static_cast<std::int64_t>(value)) : Value(value));
}

}  // namespace

std::string to_string(const Range& range) {
  std::string text;
  if (std::isfinite(range.least)) text = (range.above_least ? "above " : "at least ") + bound(range.least);
  if (std::isfinite(range.most)) {
    text += (text.empty() ? "" : " and ") + std::string(range.below_most ? "below " : "at most ") + bound(range.most);
  }
  return text;
}

std::string_view describe(KeyType type) {
  switch (type) {
    case KeyType::boolean:
      return "true or false";
    case KeyType::integer:
      return "an integer";
    case KeyType::number:
      return "a number";
    case KeyType::text:
      return "a string";
    case KeyType::choice:
      return "one of its choices, as a string";
    case KeyType::integers:
      return "a list of integers";
    case KeyType::numbers:
      return "a list of numbers";
  }
  return "";
}

}  // namespace perrin::launch
