#include "trainer/checkpoint/part_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <string_view>

namespace perrin::trainer {
namespace {

constexpr std::string_view kExtension = ".safetensors";

}  // namespace

std::string part_file(const std::string& buffer, std::size_t part, std::size_t parts) {
  if (parts == 1) return buffer + std::string(kExtension);
  return fmt::format("{}-{:05}-of-{:05}{}", buffer, part + 1, parts, kExtension);
}

std::string buffer_of(const std::string& file) {
  std::string name =
      file.substr(0, file.size() - std::min(file.size(), file.ends_with(kExtension) ? kExtension.size() : 0));
  constexpr std::string_view kPattern = "-00000-of-00000";
  if (name.size() <= kPattern.size()) return name;
  const bool part = std::equal(kPattern.begin(), kPattern.end(), name.end() - kPattern.size(), [](char p, char c) {
    return p == '0' ? std::isdigit(static_cast<unsigned char>(c)) != 0 : c == p;
  });
  if (part) name.resize(name.size() - kPattern.size());
  return name;
}

}  // namespace perrin::trainer
