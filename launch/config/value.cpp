#include "launch/config/value.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>

namespace perrin::launch {
namespace {

std::string text_of(bool value) { return value ? "true" : "false"; }

std::string text_of(std::int64_t value) { return std::to_string(value); }

std::string text_of(double value) {
  std::array<char, 32> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value).ptr;
  std::string text(buffer.data(), end);
  if (const auto exponent = text.find('e');
      exponent != std::string::npos) {  // 1e-04 is customarily 1e-4, and 1e+05 is 1e5
    const auto sign = exponent + 1;
    const auto digits = sign + 1;
    text.erase(digits, std::min(text.find_first_not_of('0', digits), text.size() - 1) - digits);
    if (text[sign] == '+') text.erase(sign, 1);
  }
  // TOML tells a number from an integer by the point or the exponent ('n' and 'i': nan and inf).
  if (text.find_first_of(".eni") == std::string::npos) text += ".0";
  return text;
}

std::string text_of(const std::string& value) {
  std::string text = "\"";
  for (const char c : value) {
    if (c == '"' || c == '\\') {
      text += '\\';
      text += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      std::array<char, 8> escape{};
      std::snprintf(escape.data(), escape.size(), "\\u%04X", static_cast<unsigned>(c));
      text += escape.data();
    } else {
      text += c;
    }
  }
  return text + '"';
}

template <class T>
std::string text_of(const std::vector<T>& values) {
  std::string text = "[";
  for (const T& value : values) text += (text.size() > 1 ? ", " : "") + text_of(value);
  return text + "]";
}

}  // namespace

std::string to_toml(const Value& value) {
  return std::visit([](const auto& alternative) { return text_of(alternative); }, value);
}

}  // namespace perrin::launch
