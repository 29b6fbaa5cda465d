#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace perrin::launch {

/// The value of one key in the form in which TOML writes it; a choice is its name.
using Value = std::variant<bool, std::int64_t, double, std::string, std::vector<std::int64_t>, std::vector<double>>;

/// The value as TOML. Reading it back gives the same bits: numbers are the shortest text that does.
std::string to_toml(const Value& value);

}  // namespace perrin::launch
